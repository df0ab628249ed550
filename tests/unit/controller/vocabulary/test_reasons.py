"""Which endings say nothing about the model or the data, so that they are no rejection of a retraining."""

import ast
from collections.abc import Iterator
from pathlib import Path

from driftloop.contract.reasons import StageReason
from driftloop.controller.vocabulary.reasons import is_unavailable

TRAINER = Path(__file__).parents[4] / "trainer_image/driftloop_trainer"
# The served version itself gives no answer, or none that lists it.
OF_THE_VERSION = {StageReason.BAD_MODEL_LIST, StageReason.NO_ANSWER}


def tried_again() -> Iterator[StageReason]:
    """The reasons with which a stage of the trainer ends so that its Job tries it again."""
    for path in TRAINER.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or "EXIT_RETRY" not in [ast.unparse(arg) for arg in call.args]:
                continue
            reason = ast.unparse(call.args[0])
            if reason.startswith("StageReason."):
                yield StageReason[reason.removeprefix("StageReason.")]


def test_what_is_tried_again_is_no_rejection_after_the_last_try() -> None:
    found = set(tried_again())
    assert {StageReason.JUDGE_FAILED, StageReason.NODES_MISSING, StageReason.CHECKPOINT_UNREADABLE} <= found
    assert {reason for reason in found if not is_unavailable(reason)} == OF_THE_VERSION


def test_wrong_input_and_a_lack_of_memory_are_rejections() -> None:
    for reason in (StageReason.EMPTY_DATA, StageReason.JUDGE_REFUSED, StageReason.OUT_OF_MEMORY, "OOMKilled"):
        assert not is_unavailable(reason)
