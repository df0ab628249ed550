"""The result of `driftloop gate`: what was judged, the gates, and the exit code. Pure."""

from dataclasses import dataclass
from typing import Any, assert_never

from driftloop.api.modelversion import Gate
from driftloop.cli.exits import Exit
from driftloop.controller.kinds.modelversion.gates import Judgement


@dataclass(frozen=True)
class Judged:
    """The gates have judged the model."""

    gates: tuple[Gate, ...]
    judgement: Judgement
    summary: str
    engine: str = ""  # that ran the models

    @property
    def failed(self) -> bool:
        """Whether a gate failed."""
        return any(gate.verdict == "Fail" for gate in self.gates)


@dataclass(frozen=True)
class Unjudged:
    """The evaluation could not be run to its end."""

    problem: str  # in words, with the fix


@dataclass(frozen=True)
class Side:
    """A model of the comparison."""

    folder: str
    digest: str

    def dump(self) -> dict[str, str]:
        """The model for JSON output."""
        return {"folder": self.folder, "digest": self.digest}


@dataclass(frozen=True)
class Report:
    """A verdict with what it is about."""

    model: Side
    baseline: Side | None
    outcome: Judged | Unjudged

    @property
    def verdict(self) -> str:
        """Passed, Failed, or Unknown, which is never good."""
        return {Exit.DONE: "Passed", Exit.GATE_FAILED: "Failed"}.get(self.exit, "Unknown")

    @property
    def summary(self) -> str:
        """The verdict's reason in a line or a few."""
        match self.outcome:
            case Judged(summary=summary):
                return summary
            case Unjudged(problem):
                return problem
            case never:
                assert_never(never)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates; none if nothing was judged."""
        match self.outcome:
            case Judged(gates=gates):
                return gates
            case Unjudged():
                return ()
            case never:
                assert_never(never)

    @property
    def engine(self) -> str:
        """The engine that ran the models; empty if nothing was judged."""
        match self.outcome:
            case Judged(engine=engine):
                return engine
            case Unjudged():
                return ""
            case never:
                assert_never(never)

    @property
    def exit(self) -> Exit:
        """The exit code."""
        match self.outcome:
            case Judged(judgement="Approved"):
                return Exit.DONE
            case Judged(failed=True):
                return Exit.GATE_FAILED
            case Judged() | Unjudged():
                return Exit.FAILED
            case never:
                assert_never(never)

    def document(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "exitCode": int(self.exit),
            "model": self.model.dump(),
            "baseline": self.baseline.dump() if self.baseline else None,
            "engine": self.engine,
            "gates": [gate.dump() for gate in self.gates],
        }
