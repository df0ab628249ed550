import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from driftloop.api.finetunejob import DataSource, DataSpec, TrainingSpec
from driftloop.api.modelversion import Lineage
from driftloop.contract import task
from driftloop.contract.task import ModelSource, PrepareTask, TrainTask


def prepare(name: str = "job") -> PrepareTask:
    return PrepareTask(
        job=name,
        job_uid="uid",
        family="family",
        model=ModelSource(uri="pvc://claim/base"),
        data=DataSpec(sources=[DataSource(name="rows", uri="pvc://claim/rows.csv")]),
        training=TrainingSpec(),
        storage="pvc://claim/out",
        output="pvc://claim/out/prepared/uid",
    )


def train(logits_bytes: int = 1 << 20) -> TrainTask:
    return TrainTask(
        job="job",
        job_uid="uid",
        family="family",
        model=ModelSource(uri="pvc://claim/base"),
        data_uri="pvc://claim/data",
        data_digest="sha256:" + "0" * 64,
        training=TrainingSpec(),
        nodes=1,
        workers_per_node=1,
        gpus_per_node=0,
        gradient_accumulation_steps=1,
        per_device_train_batch_size=8,
        logits_bytes=logits_bytes,
        total_steps=1,
        head="job-0.job",
        startup_timeout_seconds=60,
        backoff_limit=3,
        attempt=1,
        runs="pvc://claim/runs/uid",
        output="pvc://claim/versions/uid",
        lineage=Lineage(),
    )


@given(st.text(st.sampled_from('$()ab\\"é\n')))
def test_a_document_holds_no_dollar_and_comes_back_the_same(text: str) -> None:
    document = task.encode(prepare(text))
    assert "$" not in document
    assert task.decode(document) == prepare(text)


def test_an_unknown_field_is_ignored_and_a_missing_one_is_named() -> None:
    assert task.decode(task.encode(prepare()).replace('"job":', '"new":1,"job":')) == prepare()
    with pytest.raises(ValidationError, match="jobUid"):
        task.decode(task.encode(prepare()).replace('"jobUid":"uid",', ""))


def test_a_train_task_of_an_earlier_release_has_the_limit_of_logits_of_that_time() -> None:
    document = task.encode(train())
    assert '"logitsBytes":1048576' in document
    assert task.decode(document.replace('"logitsBytes":1048576,', "")) == train(256 << 20)


def test_the_document_is_found_in_the_environment_or_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    path = f"{tmp_path}/task.json"
    with open(path, "w") as stream:
        stream.write(task.encode(prepare()))
    monkeypatch.delenv("DRIFTLOOP_TASK", raising=False)
    monkeypatch.setenv("DRIFTLOOP_TASK_FILE", path)
    assert task.from_environment() == prepare()
    monkeypatch.setenv("DRIFTLOOP_TASK", task.encode(prepare("other")))
    assert task.from_environment() == prepare("other")
    monkeypatch.delenv("DRIFTLOOP_TASK")
    monkeypatch.delenv("DRIFTLOOP_TASK_FILE")
    with pytest.raises(SystemExit, match="DRIFTLOOP_TASK"):
        task.from_environment()
