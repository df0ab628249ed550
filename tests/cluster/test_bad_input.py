"""Wrong input ends in a condition that says what to fix, without endless retries."""

from pathlib import Path

import pytest

from cluster.lab import TINY, Lab, source
from demo.install import CLAIM
from demo.kube import Obj
from driftloop.contract.manifest import Manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def failure(lab: Lab, name: str) -> str:
    """Reason and message of the condition, which an Event tells too; nothing was tried twice."""
    job = lab.phase(name, "Failed", seconds=200)
    found = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    pods = lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=prepare")
    assert len(pods) == 1, "wrong input is not tried again"
    events = [event for event in lab.events(name) if event["reason"] == found["reason"]]
    assert [event["type"] for event in events] == ["Warning"], lab.events(name)
    assert found["message"].startswith(events[0]["message"][:200])
    return f"{found['reason']}: {found['message']}"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("missing-file", {"sources": [source("corpus", "none.csv", text="text")]}, "none.csv"),
        ("wrong-column", {"sources": [source("corpus", "corpus.csv", text="sentence")]}, "sentence"),
        ("unreadable", {"sources": [source("corpus", "broken.parquet", text="text")]}, "broken.parquet"),
        ("empty", {"sources": [source("corpus", "empty.csv", text="text")]}, "0 rows read"),
        (
            "no-rows-left",
            {
                "sources": [source("corpus", "corpus.csv", text="text")],
                "steps": [{"type": "filterLength", "minCharacters": 100000}],
            },
            "no row",
        ),
    ],
)
def test_data_that_will_not_do_is_named(lab: Lab, name: str, data: dict[str, object], expected: str) -> None:
    lab.write("support-desk/data/broken.parquet", "no parquet at all")
    lab.write("support-desk/data/empty.csv", "text,category\n")
    lab.pretrain(name, data=data)
    assert expected in failure(lab, name)


def test_rows_without_anything_to_learn_are_named(lab: Lab) -> None:
    data = {"sources": [source("corpus", "requests.csv", prompt="text", completion="category")]}
    lab.pretrain("all-masked", data=data, training={"method": "sft", "lossOn": "completion", "maxLength": 8})
    found = failure(lab, "all-masked")
    assert "AllRowsMasked" in found
    assert "maxLength" in found


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("no-model", {"from": {"uri": f"pvc://{CLAIM}/nowhere"}}, f"pvc://{CLAIM}/nowhere"),
        (
            "unknown-architecture",
            {"from": {"config": {"architecture": TINY | {"model_type": "lama"}, "tokenizer": {"vocabSize": 512}}}},
            "lama",
        ),
    ],
)
def test_a_model_that_will_not_do_is_named(lab: Lab, name: str, model: dict[str, object], expected: str) -> None:
    lab.pretrain(name, model=model)
    assert expected in failure(lab, name)


CONFIG = '{"model_type": "llama"}'


def test_pickled_weights_are_refused(lab: Lab) -> None:
    lab.write("pickled/config.json", CONFIG)
    lab.write("pickled/pytorch_model.bin", "")
    lab.pretrain("pickled", model={"from": {"uri": f"pvc://{CLAIM}/pickled"}})
    assert "safetensors" in failure(lab, "pickled")


@pytest.fixture
def other_model(lab: Lab, tmp_path: Path) -> dict[str, str]:
    """A model folder with its manifest, and a digest that is not its own."""
    (tmp_path / "config.json").write_text(CONFIG)
    Manifest.of(tmp_path).write(tmp_path)
    for path in tmp_path.iterdir():
        lab.write(f"other/{path.name}", path.read_text())
    return {"uri": f"pvc://{CLAIM}/other", "digest": "sha256:" + "0" * 64}


def test_a_model_with_another_digest_than_promised_is_refused(lab: Lab, other_model: dict[str, str]) -> None:
    lab.pretrain("other-digest", model={"from": other_model})
    assert "digest" in failure(lab, "other-digest")


def test_a_version_with_another_digest_than_promised_is_rejected(lab: Lab, other_model: dict[str, str]) -> None:
    version = {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "other-version"},
        "spec": {"family": "other", "artefact": other_model},
    }
    lab.apply(version)

    def ended() -> Obj | None:
        found = lab.get("modelversion", "other-version")
        return found if found.get("status", {}).get("phase") in ("Approved", "Rejected", "Failed") else None

    status = lab.kube.wait("the verdict", ended, 200)["status"]
    assert status["phase"] == "Rejected", status
    [failed] = [gate for gate in status["gates"] if gate["verdict"] == "Fail"]
    assert failed["name"] == "digest"
    assert [e for e in lab.events("other-version") if e["type"] == "Warning" and "digest" in e["message"]]


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
