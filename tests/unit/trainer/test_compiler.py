"""A training that must be compiled is refused where nothing can compile it, before a GPU is taken."""

from pathlib import Path

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.compiler import compiles, has_compiler
from unit.trainer import templates
from unit.trainer.prepare.test_folder import MESSAGES, prepared


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without a compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def test_prepare_names_the_field_and_what_the_image_lacks(bare: None, volume: Path) -> None:
    with pytest.raises(StageFailure, match=r"CompileUnsupported: training\.compile is true, .* or install g\+\+"):
        prepared(volume, [{"messages": MESSAGES[:2]}], templates.CHATML, compile=True)


def test_prepare_refuses_float8_that_would_be_slower_than_bfloat16(bare: None, volume: Path) -> None:
    with pytest.raises(StageFailure, match=r"Float8Unsupported: training\.float8 is true, .* or install g\+\+"):
        prepared(volume, [{"messages": MESSAGES[:2]}], templates.CHATML, float8=True)


def test_without_a_compiler_a_plan_s_choice_is_given_up_and_logged(
    bare: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert not compiles(TrainingSpec(compile=True))
    assert "no C++ compiler" in caplog.text


def test_a_compiler_may_be_named_by_the_environment(
    bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    assert not has_compiler()
    monkeypatch.setenv("CXX", "my-compiler")
    assert has_compiler()
    assert compiles(TrainingSpec(compile=True))
    assert not compiles(TrainingSpec())
