"""Wrong input leads to a condition and an Event that say what to fix, without endless retries."""

from pathlib import Path
from typing import Any

import pytest

from cluster.interruptions import NodeLoss
from cluster.lab import TINY, TRAINED, Lab, source
from cluster.looprun import LoopRun
from demo.install import CLAIM
from demo.kube import condition
from demo.reads import Obj
from driftloop.contract.manifest import Manifest
from parts import sweep

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # includes the training that it needs

CONFIG = '{"model_type": "llama"}'
OTHER = {"uri": f"pvc://{CLAIM}/other", "digest": "sha256:" + "0" * 64}


def corpus(file: str = "corpus.csv", column: str = "text", **more: Any) -> Obj:
    return {"data": {"sources": [source("corpus", file, text=column)], **more}}


def model(**origin: Any) -> Obj:
    return {"model": {"from": origin}}


# Changes to a valid job, and what the message of its failure must contain.
CASES: dict[str, tuple[Obj, list[str]]] = {
    "missing-file": (corpus("none.csv"), ["none.csv"]),
    "unreadable": (corpus("broken.parquet"), ["DataUnreadable", "broken.parquet"]),
    "wrong-column": (corpus(column="sentence"), ["WrongColumn", "'sentence'", "'text'"]),
    "empty": (corpus("empty.csv"), ["EmptyData", "0 rows read"]),
    "no-row-left": (
        corpus(steps=[{"type": "filterLength", "minCharacters": 100_000}]),
        ["EmptyData", "filterLength dropped"],
    ),
    "all-too-long": (
        {
            "data": {"sources": [source("requests", "requests.csv", prompt="text", completion="category")]},
            "training": {"method": "sft", "lossOn": "completion", "maxLength": 8},
            **model(family=TRAINED),
        },
        ["AllRowsTooLong", "maxLength"],
    ),
    "no-model": (model(uri=f"pvc://{CLAIM}/nowhere"), [f"pvc://{CLAIM}/nowhere"]),
    "unknown-architecture": (
        model(config={"architecture": TINY | {"model_type": "lama"}, "tokenizer": {"vocabSize": 512}}),
        ["lama"],
    ),
    "pickled": (model(uri=f"pvc://{CLAIM}/pickled"), ["safetensors"]),
    "other-digest": (model(**OTHER), ["digest"]),
}


MAIN = ("wrong-column", "all-too-long", "other-digest")  # errors in data, in its length, and in a model


@pytest.fixture(scope="module")
def started(
    lab: Lab,
    node_lost: NodeLoss,
    loop_beside: LoopRun | None,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """Start all jobs at once, as each takes seconds to start and no time to run. One needs the model `trained`.

    The loop also starts here, as its first training doesn't need a second node either.
    """
    lab.write("support-desk/data/broken.parquet", "no parquet at all")
    lab.write("support-desk/data/empty.csv", "text,category\n")
    lab.write("pickled/config.json", CONFIG)
    lab.write("pickled/pytorch_model.bin", "")
    _write_whole(lab, tmp_path_factory.mktemp("other"))
    for name, (changes, _) in CASES.items():
        if any(item.name.endswith(f"[{name}]") for item in request.session.items):
            lab.pretrain(name, **changes)


def _write_whole(lab: Lab, folder: Path) -> None:
    """Write a complete model folder whose digest differs from the one in OTHER."""
    (folder / "config.json").write_text(CONFIG)
    Manifest.of(folder).write(folder)
    for path in folder.iterdir():
        lab.write(f"other/{path.name}", path.read_text())


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("name", sweep("faults", CASES, MAIN))
def test_wrong_input_ends_in_a_condition_and_an_event_that_say_what_to_fix(lab: Lab, name: str) -> None:
    job = lab.phase(name, "Failed")
    found = condition(job, "Failed")
    for expected in CASES[name][1]:
        assert expected in f"{found['reason']}: {found['message']}"
    events = [event for event in lab.events(name) if event["reason"] == found["reason"]]
    assert [event["type"] for event in events] == ["Warning"], lab.events(name)
    assert found["message"].startswith(events[0]["message"][:200])
    pods = lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=prepare")
    assert len(pods) == 1, "wrong input was retried"


@pytest.mark.usefixtures("started")
def test_a_version_with_another_digest_than_promised_is_never_judged(lab: Lab) -> None:
    version = {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "other-version"},
        "spec": {"family": "other", "artefact": OTHER},
    }
    lab.apply(version)
    found = lab.judged("other-version")
    assert found["status"]["phase"] == "Failed"
    assert condition(found, "Stalled")["reason"] == "DigestMismatch"
    assert [e for e in lab.events("other-version") if e["type"] == "Warning" and e["reason"] == "DigestMismatch"]


def test_a_claim_that_two_nodes_cannot_share_is_found_before_any_pod(lab: Lab) -> None:
    lab.kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "single", "namespace": lab.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "none",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
    )
    lab.pretrain("single-writer", storage="pvc://single/x")
    found = lab.stalled("single-writer")
    assert found["reason"] == "NeedsReadWriteMany"
    assert not lab.list("pods", "driftloop.dev/job=single-writer")
