"""Exit codes of the commands that pipelines use. docs/cli.md documents them; they do not change."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0  # what was asked for is so
    FAILED = 1  # the job failed, the version was rejected, the canary was rolled back, or a person must act
    USAGE = 2  # an option, a manifest or the kubeconfig is wrong; nothing was written
    TIMEOUT = 3  # --timeout is over; the operator continues its work
    CLUSTER = 4  # the API server refused the request, or could not be reached
    AWAITING = 5  # a person must approve: no suite judged the version
    GATE_FAILED = 6  # of `gate`: a gate failed
    DRIFTED = 7  # of `detect`: the requests have changed
    INTERRUPTED = 130  # SIGINT; the operator continues its work
    TERMINATED = 143  # SIGTERM; the same


HELP = (
    "Exit status: 0 done; 1 failed, rejected or rolled back; 2 a wrong option or manifest; 3 the timeout is over; "
    "4 the cluster refused the request or can't be reached; 5 a person must approve; 130 or 143 interrupted. "
    "After 3, 130 and 143 the operator continues its work."
)
