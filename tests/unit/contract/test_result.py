from pathlib import Path

import pytest
from pydantic import ValidationError

from driftloop.contract import result
from driftloop.contract.result import ApiCheck, EvaluateResult, StageError, SuiteResult

DIGEST = "sha256:" + "0" * 64


def suite(name: str) -> SuiteResult:
    """With everything that a paired suite may say."""
    return SuiteResult(
        name=name,
        items=2000,
        clusters=2000,
        correct=1999,
        standard_error=0.012346,
        baseline_correct=1999,
        gained=123,
        lost=123,
        difference_standard_error=0.012346,
        errors=12,
        cut=12,
        baseline_cut=12,
    )


def test_sixteen_suites_fit_into_a_termination_message() -> None:
    found = EvaluateResult(
        uri="pvc://claim/evaluations/uid",
        digest=DIGEST,
        candidate_digest=DIGEST,
        baseline_digest=DIGEST,
        api=ApiCheck(passed=12),
        suites=[suite(f"suite-{i}") for i in range(16)],
    )
    assert result.decode(result.encode(found)) == found


def test_a_result_that_a_kubelet_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="termination message holds 4096"):
        result.encode(StageError.model_construct(kind="Error", reason="Reason", message="x" * 5000, result_version=1))


def test_a_newer_result_with_more_fields_is_read() -> None:
    document = result.encode(StageError(reason="EmptyData", message="no rows"))
    newer = document.replace('"kind"', '"hint":"x","kind"')
    assert result.decode(newer) == StageError(reason="EmptyData", message="no rows")


@pytest.mark.parametrize("document", ["", "{}", '{"kind":"Train"}', '{"kind":"Other"}', "Killed"])
def test_what_is_no_result_is_refused(document: str) -> None:
    with pytest.raises(ValidationError):
        result.decode(document)


def test_a_result_is_written_where_the_kubelet_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_TERMINATION_LOG", str(tmp_path / "log"))
    result.emit(StageError(reason="EmptyData", message="no rows"))
    assert result.decode((tmp_path / "log").read_text()) == StageError(reason="EmptyData", message="no rows")
