import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from driftloop.api.finetunejob import DataSource, DataSpec, TrainingSpec
from driftloop.contract import task
from driftloop.contract.task import ModelSource, PrepareTask


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


@given(st.text(st.sampled_from('$()ab\\"é\n')))
def test_a_document_holds_no_dollar_and_comes_back_the_same(text: str) -> None:
    document = task.encode(prepare(text))
    assert "$" not in document
    assert task.decode(document) == prepare(text)


def test_an_unknown_field_is_ignored_and_a_missing_one_is_named() -> None:
    assert task.decode(task.encode(prepare()).replace('"job":', '"new":1,"job":')) == prepare()
    with pytest.raises(ValidationError, match="jobUid"):
        task.decode(task.encode(prepare()).replace('"jobUid":"uid",', ""))


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
