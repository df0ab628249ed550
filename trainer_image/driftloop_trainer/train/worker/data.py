"""The prepared data of a worker, which it shares with the other workers of its pod."""

import os

from driftloop.podlib.ending import StageFailure, classify
from driftloop_trainer.train.localdata import LocalData, local_data
from driftloop_trainer.train.worker.checkpoint import from_all_ranks


def shared_data(uri: str, digest: str) -> LocalData:
    """The prepared folder at `uri`; every rank calls it. The first worker of each pod makes the files of its pod.

    The others wait in an exchange: it ends with an error if that worker ends, and after the timeout of the exchange.
    Raises the StageFailure of any pod on every rank.
    """
    failures: list[StageFailure] = []
    if os.environ.get("LOCAL_RANK", "0") == "0":
        try:
            local_data(uri, digest)
        except Exception as error:  # each storage client has its own
            failure = classify(error)
            failures = [StageFailure(failure.reason, failure.message, failure.exit_code)]  # pickled by its arguments
    if found := from_all_ranks(failures):
        raise found[0]
    return local_data(uri, digest)
