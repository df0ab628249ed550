"""Where a version comes from: its job, data, parents, and what asked for it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from driftloop.api.finetunejob import DataStatus, FineTuneJobStatus
from driftloop.api.modelversion import ModelVersion, Trigger
from driftloop.controller.vocabulary.plan import Obj

LABEL_WIDTH = 13


@dataclass(frozen=True)
class Generation:
    """One version of an ancestry, and its job if it still exists."""

    name: str
    version: Obj | None  # None: it was deleted
    job: Obj | None = None


def job_of(version: Obj, job: Obj | None) -> Obj | None:
    """The job, if it is the one that created the version and not a later one of the same name."""
    lineage = ModelVersion.model_validate(version).spec.lineage
    return job if job and lineage.job_uid in (None, job["metadata"]["uid"]) else None


def document(generation: Generation) -> dict[str, Any]:
    """A generation for JSON output."""
    if generation.version is None:
        return {"name": generation.name, "exists": False}
    version = ModelVersion.model_validate(generation.version)
    lineage = version.spec.lineage
    data = data_of(generation.job)
    return {
        "name": generation.name,
        "exists": True,
        "created": generation.version["metadata"].get("creationTimestamp"),
        "phase": version.status.phase,
        "gateSummary": version.status.gate_summary,
        "artefact": version.spec.artefact.dump(),
        "lineage": lineage.dump(),
        "jobExists": generation.job is not None,
        "data": data.dump() if data else None,
        "baseline": version.status.baseline.dump() if version.status.baseline else None,
        "services": list(version.status.services),
    }


def text(generations: Sequence[Generation]) -> str:
    """An ancestry for people, the newest version first."""
    return "\n".join(line for generation in generations for line in _lines(generation))


def data_of(job: Obj | None) -> DataStatus | None:
    """What a job's prepare stage reported."""
    return FineTuneJobStatus.model_validate(job.get("status") or {}).data if job else None


def _lines(generation: Generation) -> Iterator[str]:
    if generation.version is None:
        yield f"{generation.name}: was deleted, so what is before it is unknown"
        return
    version = ModelVersion.model_validate(generation.version)
    lineage, status = version.spec.lineage, version.status
    yield f"{generation.name}: {status.phase or 'Pending'}{f', {status.gate_summary}' if status.gate_summary else ''}"
    yield _line("created", generation.version["metadata"].get("creationTimestamp") or "unknown")
    if status.services:
        yield _line("served by", ", ".join(status.services))
    yield _line("artefact", f"{version.spec.artefact.uri} {version.spec.artefact.digest}")
    for base in version.spec.artefact.bases:
        yield _line("merged onto", base)
    if status.baseline:
        yield _line("compared", f"with {status.baseline.version} of {status.baseline.service}")
    if lineage.job is None:
        yield _line("job", "none: the version was imported")
        return
    yield _line("job", f"{lineage.job}{'' if generation.job else ' (was deleted)'}")
    yield _line("asked for by", trigger_text(lineage.trigger))
    yield _line("data", f"{lineage.data_uri or 'unknown'} {lineage.data_digest or ''}".rstrip())
    if data := data_of(generation.job):
        yield _line("rows", rows_text(data))
    yield _line("trained from", f"{lineage.parent or 'a model without a version'} {lineage.base_digest or ''}".rstrip())


def trigger_text(trigger: Trigger) -> str:
    """What started the training.

    >>> trigger_text(Trigger(kind="Drift", service="desk", alert="DriftloopModelDrift"))
    'Drift: alert DriftloopModelDrift of service desk'
    """
    if trigger.kind == "User":
        return "a person or a pipeline"
    alert = f"alert {trigger.alert}" if trigger.alert else ""
    service = f"of service {trigger.service}" if trigger.service else ""
    started = f"at {trigger.started}" if trigger.started else ""
    detail = " ".join(part for part in (alert, service, started) if part)
    return f"{trigger.kind}: {detail}" if detail else trigger.kind


def rows_text(data: DataStatus) -> str:
    """The numbers of rows, without those that are 0."""
    counts = {
        "trained": data.train_rows,
        "held out": data.held_out_rows,
        "from feedback": data.feedback_rows,
        "replayed": data.replay_rows,
        "dropped": data.dropped_rows,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "none"


def _line(label: str, value: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{value}"
