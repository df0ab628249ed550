"""Wrong input ends in a condition that says what to fix, without endless retries."""

import pytest

from cluster.lab import TINY, Lab, source
from demo.install import CLAIM

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def failure(lab: Lab, name: str) -> str:
    job = lab.phase(name, "Failed", seconds=200)
    found = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    pods = lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=prepare")
    assert len(pods) == 1, "wrong input is not tried again"
    return f"{found['reason']}: {found['message']}"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("missing-file", {"sources": [source("corpus", "none.csv", text="text")]}, "none.csv"),
        ("wrong-column", {"sources": [source("corpus", "corpus.csv", text="sentence")]}, "sentence"),
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
    lab.pretrain(name, data=data)
    assert expected in failure(lab, name)


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


def write_model(lab: Lab, name: str, *others: str) -> str:
    """A model folder with a configuration and empty `others`; its URI."""
    folder = f"/volumes/{CLAIM}/{name}"
    lines = [f"mkdir -p {folder}", f'echo \'{{"model_type": "llama"}}\' > {folder}/config.json']
    lines += [f"touch {folder}/{other}" for other in others]
    lab.kube.run("exec", "-n", lab.namespace, "writer", "--", "sh", "-c", "\n".join(lines))
    return f"pvc://{CLAIM}/{name}"


def test_pickled_weights_are_refused(lab: Lab) -> None:
    lab.pretrain("pickled", model={"from": {"uri": write_model(lab, "pickled", "pytorch_model.bin")}})
    assert "safetensors" in failure(lab, "pickled")


def test_a_model_with_another_digest_than_promised_is_refused(lab: Lab) -> None:
    uri = write_model(lab, "unsigned")
    lab.pretrain("other-digest", model={"from": {"uri": uri, "digest": "sha256:" + "0" * 64}})
    assert "manifest" in failure(lab, "other-digest")


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
