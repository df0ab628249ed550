from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from driftloop.api.evaluation import MOST_ANCHORED
from driftloop.contract import result
from driftloop.contract.result import (
    AnchorResult,
    ApiCheck,
    EvaluateResult,
    ModelFacts,
    PrepareResult,
    StageError,
    SuiteItems,
    SuiteResult,
)

DIGEST = "sha256:" + "0" * 64


def suite(name: str, **fields: Any) -> SuiteResult:
    """With everything that a paired suite may say."""
    given: dict[str, Any] = {
        "name": name,
        "items": 2000,
        "clusters": 2000,
        "correct": 1999,
        "standard_error": 0.012346,
        "baseline_correct": 1999,
        "gained": 123,
        "lost": 123,
        "difference_standard_error": 0.012346,
        "errors": 12,
        "cut": 12,
        "baseline_cut": 12,
    }
    return SuiteResult.model_validate(given | fields)


GRADED = {"correct": 1234.5678, "baseline_correct": 1234.5678, "gained": None, "lost": None}


@pytest.mark.parametrize("graded", [{}, GRADED | {"lower": -0.01235, "upper": 0.01234}], ids=["counts", "scores"])
def test_sixteen_suites_fit_into_a_termination_message(graded: dict[str, Any]) -> None:
    found = EvaluateResult(
        uri="pvc://claim/evaluations/uid",
        digest=DIGEST,
        candidate_digest=DIGEST,
        baseline_digest=DIGEST,
        api=ApiCheck(passed=12),
        suites=[suite(f"suite-{i}", **graded) for i in range(16)],
    )
    assert result.decode(result.encode(found)) == found


def test_eight_suites_with_an_anchor_fit_into_a_termination_message() -> None:
    anchor = AnchorResult(correct=1234.5678, error=0.012346, lower=-0.01235, upper=0.01234, look=1000)
    longest = [suite(f"{i:063d}", **JUDGED, anchor=anchor, look=1000) for i in range(MOST_ANCHORED)]
    found = of_suites(*longest, faults=8).model_copy(update={"anchor_digest": DIGEST})
    fitted = result.decode(result.encode(result.fitting_evaluation(found)))
    assert isinstance(fitted, EvaluateResult)
    assert [entry.anchor for entry in fitted.suites] == [anchor] * MOST_ANCHORED


def of_suites(*suites: SuiteResult, faults: int = 0) -> EvaluateResult:
    return EvaluateResult(
        uri="pvc://claim/evaluations/uid",
        digest=DIGEST,
        candidate_digest=DIGEST,
        baseline_digest=DIGEST,
        api=ApiCheck(passed=12, failed=["f" * 160] * faults),
        suites=list(suites),
    )


JUDGED = GRADED | {"lower": -0.01235, "upper": 0.01234, "reliability": 0.97}


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (of_suites(*(suite(f"suite-{i}", **JUDGED) for i in range(8)), faults=2), (0.97, 12, 160)),
        (of_suites(*(suite(f"suite-{i}", **JUDGED) for i in range(16))), (None, 12, 0)),
        (of_suites(*(suite(f"{i:032d}", **JUDGED) for i in range(16))), (None, None, 0)),
        (of_suites(*(suite(f"suite-{i}", **JUDGED) for i in range(16)), faults=7), (None, None, 40)),
    ],
)
def test_an_evaluation_of_many_suites_leaves_out_the_least_important_first(
    found: EvaluateResult, kept: tuple[float | None, int | None, int]
) -> None:
    fitted = result.decode(result.encode(result.fitting_evaluation(found)))
    assert isinstance(fitted, EvaluateResult)
    first = fitted.suites[0]
    assert (first.reliability, first.cut, max(map(len, fitted.api.failed), default=0)) == kept
    assert [(s.correct, s.lower) for s in fitted.suites] == [(s.correct, s.lower) for s in found.suites]
    assert len(fitted.api.failed) == len(found.api.failed)


def prepared(**fields: Any) -> PrepareResult:
    facts = {
        "model_type": "m" * 64, "parameters": 10**12, "trainable_parameters": 10**12, "num_layers": 100,
        "hidden_size": 10**5, "vocab_size": 10**6, "max_position_embeddings": 10**6,
    }  # fmt: skip
    given = {
        "uri": "pvc://claim/" + "folder/" * 16, "digest": DIGEST, "train_rows": 10**9, "held_out_rows": 10**8,
        "tokens": 10**12, "trained_tokens": 10**12, "longest_row_tokens": 10**6, "tokenizer_digest": DIGEST,
        "model_uri": "pvc://claim/" + "folder/" * 16, "model_digest": DIGEST, "model": ModelFacts(**facts),
    }  # fmt: skip
    return PrepareResult.model_validate(given | fields)


def test_sixteen_suites_and_all_reasons_for_dropped_rows_fit_too() -> None:
    suites = [SuiteItems(name=f"{n:040d}", digest=DIGEST, items=100_000) for n in range(16)]
    reasons = {f"{n:040d}": 10**6 + n for n in range(24)}
    found = result.fitting(prepared(suites=suites, dropped=reasons))
    assert result.decode(result.encode(found)) == found
    assert sum(found.dropped.values()) == sum(reasons.values())
    assert len(result.fitting(prepared(dropped=reasons)).dropped) == 24


def test_the_items_of_a_suite_lie_in_the_prepared_folder_unless_it_is_said() -> None:
    found = prepared(uri="pvc://claim/prepared/x/")
    assert found.items_uri(SuiteItems(name="s", digest=DIGEST, items=1)) == "pvc://claim/prepared/x/heldout/s.jsonl"
    assert found.items_uri(SuiteItems(name="s", uri="s3://b/i", digest=DIGEST, items=1)) == "s3://b/i"


def test_counts_are_the_largest_and_the_rest_in_one() -> None:
    assert result.counted({"a": 1, "b": 0, "c" * 50: 3}) == {"c" * 40: 3, "a": 1}
    assert result.counted({"a": 1, "b": 2, "c": 3}, most=2) == {"c": 3, "other": 3}


def test_a_result_that_a_kubelet_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="termination message can hold only 4096"):
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
