"""A service, its versions, Deployments and jobs, as the observer would give them."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from driftloop.api.finetunejob import FineTuneJobPhase
from driftloop.api.inferenceservice import AlertRecord, InferenceServiceSpec, InferenceServiceStatus
from driftloop.api.modelversion import ModelVersionPhase
from driftloop.contract.names import ALERT_NAME
from driftloop.controller.kinds.inferenceservice.observed import Job, Keys, Observed, Revision, Role, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.traffic import Arm, Buckets
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import Adjust, Create, Obj, Plan, Settings

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(trainer_image="driftloop/trainer:1", server_image="driftloop/server:1")
FAMILY = "desk"
JOB_SPEC: Obj = {
    "model": {"from": {"serving": {"name": "desk"}}},
    "data": {"feedback": {"service": "desk"}},
    "storage": "pvc://shared/desk",
    "evaluation": {"suites": [{"name": "new", "kind": "target", "items": "feedback"}]},
    "output": {"family": FAMILY},
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def digest(name: str) -> str:
    return "sha256:" + (name.encode().hex() * 64)[:64]


def version(name: str, age: float = 1000, phase: ModelVersionPhase | None = "Approved", **fields: Any) -> Version:
    found = Version(
        name=name,
        uid=f"uid-{name}",
        family=FAMILY,
        uri=f"pvc://shared/desk/versions/{name}",
        digest=digest(name),
        created=ago(age),
        phase=phase,
        baseline_service="elsewhere",
    )
    return replace(found, **fields)


def service(spec: Obj | None = None, annotations: dict[str, str] | None = None, **parts: Any) -> Observed:
    """An Observed of the service `desk`; `spec` is merged into the smallest one."""
    raw: Obj = {"model": {"family": FAMILY}, "replicas": 2} | (spec or {})
    body = {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            "name": "desk",
            "namespace": "team",
            "uid": "uid-desk",
            "generation": 3,
            "annotations": annotations or {},
        },
        "spec": raw,
    }
    return Observed(
        service=body,
        spec=InferenceServiceSpec.model_validate(raw),
        status=parts.pop("status", InferenceServiceStatus()),
        keys=Keys("k" * 64, "t" * 43),
        **parts,
    )


def revision(observed: Observed, of: Version, role: Role, replicas: int, **fields: Any) -> Revision:
    """A Deployment whose pods are all ready, unless said otherwise."""
    name = revision_of(observed, of, SETTINGS)
    found = Revision(
        name=f"desk-00000000-{name}",
        uid=f"uid-{name}",
        revision=name,
        version=of.name,
        digest=of.digest,
        role=role,
        since=ago(600),
        replicas=replicas,
        available=replicas,
        pods=replicas,
        resource_version=f"seen-{name}",
    )
    return replace(found, **fields)


def arm(requests: float, failures: float = 0, p95: float | None = 0.2, **fields: Any) -> Arm:
    """An arm of a canary; `p95` in seconds, None: nothing was timed."""
    return Arm(requests, failures, latency=took(p95, requests) if p95 else {}, **fields)


def took(seconds: float, answers: float) -> Buckets:
    """A histogram of answers that all took about so long."""
    return {seconds * 0.99: 0.0, seconds * 1.01: answers, math.inf: answers}


def retraining(**fields: Any) -> Obj:
    return {"retraining": {"jobTemplate": {"spec": JOB_SPEC}, "approval": "automatic", "minSamples": 10} | fields}


def alert(key: str, started: datetime, alertname: str = ALERT_NAME) -> AlertRecord:
    return AlertRecord(
        key=key, alertname=alertname, started=timestamp(started), received=timestamp(started), source="Webhook"
    )


def job(name: str, age: float, phase: FineTuneJobPhase | None = "Training", **fields: Any) -> Job:
    return replace(Job(name=name, uid=f"uid-{name}", created=ago(age), phase=phase), **fields)


def carried(parent: Obj, generation: int = 2, seen: int = 2) -> Obj:
    """The service's HTTPRoute, whose content up to generation `seen` its Gateway has accepted."""
    conditions = [{"type": kind, "status": "True", "observedGeneration": seen} for kind in ("Accepted", "ResolvedRefs")]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": "desk",
            "namespace": "team",
            "uid": "uid-route",
            "generation": generation,
            "ownerReferences": [owner_reference(service().service)],
        },
        "status": {"parents": [{"parentRef": parent, "conditions": conditions}]},
    }


def adjusted(actions: Any, uid: str) -> list[Adjust]:
    return [action for action in actions if isinstance(action, Adjust) and action.uid == uid]


def created(plan: Plan, kind: str) -> list[Obj]:
    return [a.body for a in plan.actions if isinstance(a, Create) and a.body["kind"] == kind]
