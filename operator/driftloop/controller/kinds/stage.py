"""One stage of an object: its Job and the outcome of the Job. Pure."""

from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never

from driftloop.controller.pods.outcome import Broken, Done, Lost, Outcome, Running
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """A stage that has a Job."""

    job: Obj  # the Job that runs it, or has run it
    outcome: Result | Running | Broken | Lost  # its result, or why there is none

    @property
    def result(self) -> Result | None:
        """The result; None if the stage has not finished successfully."""
        match self.outcome:
            case Running() | Broken() | Lost():
                return None
            case result:
                return result


def stage(job: Obj, outcome: Outcome, expected: type[Result]) -> Stage[Result]:
    """The stage of `job`. It is Broken if its result is not of the `expected` type."""
    match outcome:
        case Done(result):
            return Stage(job, result if isinstance(result, expected) else foreign_result(job))
        case Running() | Broken() | Lost():
            return Stage(job, outcome)
        case never:
            assert_never(never)


def foreign_result(job: Obj) -> Broken:
    """The outcome of a Job that returned the result of another stage."""
    return Broken(Reason.INVALID_RESULT, f"Job {job['metadata']['name']} returned the result of another stage")


def lost_result(job: Obj) -> str:
    """The message about a stage whose outcome is Lost."""
    return f"Job {job['metadata']['name']} ended, but its pod was deleted together with the result: it runs again"
