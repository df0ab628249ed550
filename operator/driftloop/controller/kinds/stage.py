"""One stage of an object: its Job and what became of it. Pure."""

from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never

from driftloop.controller.pods.outcome import Broken, Done, Lost, Outcome, Running
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """A stage that was begun."""

    job: Obj  # the Job that runs it, or ran it
    outcome: Result | Running | Broken | Lost  # what became of it: its result, or why there is none

    @property
    def result(self) -> Result | None:
        """Its result; None where there is none to go on with."""
        match self.outcome:
            case Running() | Broken() | Lost():
                return None
            case result:
                return result


def stage(job: Obj, outcome: Outcome, expected: type[Result]) -> Stage[Result]:
    """The stage of `job`; it is broken where its result isn't the `expected` one."""
    match outcome:
        case Done(result) if isinstance(result, expected):
            return Stage(job, result)
        case Done():
            return Stage(job, foreign_result(job))
        case Running() | Broken() | Lost():
            return Stage(job, outcome)
        case never:
            assert_never(never)


def foreign_result(job: Obj) -> Broken:
    """The Job gave a result that doesn't belong to it."""
    return Broken(Reason.INVALID_RESULT, f"Job {job['metadata']['name']} ended with the result of another stage")


def lost_result(job: Obj) -> str:
    """For people: what happens to a stage whose outcome is Lost."""
    return f"Job {job['metadata']['name']} ended, its result is gone with its pod: it runs again"
