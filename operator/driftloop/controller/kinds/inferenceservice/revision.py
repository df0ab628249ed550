"""A revision: everything that determines the pods, in one hash and one Deployment. Pure.

The hash covers the version, the settings of the user and the engine that they lead to. It does not cover the operator's
images (Driftloop's server, vLLM) and the way in which the operator builds a pod: both are used once, when the
Deployment is created, and the Deployment's template is never changed. So an upgrade of the operator does not restart
serving pods; only the next revision is affected.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

from driftloop.api.base import ApiModel
from driftloop.api.engine import Engine
from driftloop.api.finetunejob import HELD_OUT_PERCENT
from driftloop.api.inferenceservice import InferenceServiceSpec, Shadow
from driftloop.contract.names import API_TLS_PORT, FEEDBACK_TLS_PORT
from driftloop.contract.task import ServeTask
from driftloop.controller.kinds.engines import resolved, task_fields, type_of
from driftloop.controller.kinds.inferenceservice.observed import Observed, Version
from driftloop.controller.pods.serving import SERVE, serving_template
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import (
    CAN_SHADOW,
    DIGEST,
    ENGINE_TYPE,
    FAMILY,
    REVISION,
    ROLE,
    SERVICE,
    SINCE,
    STAGE,
    VERSION,
)
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.quantity import quantity

MIN_READY_SECONDS = 3  # so that a pod that crashes on its first requests does not count as available
_HASH_LENGTH = 10
# Fields of the spec that the first release did not have.
_ADDED_FIELDS = ("request_timeout_seconds", "allowed_origins", "api_keys", "tls", "model_cache")


def revision_of(observed: Observed, version: Version, settings: Settings) -> str:
    """The name of a revision: ten hex digits, a hash.

    It includes the service's UID, so that no selector matches the pods of a deleted service of the same name.
    """
    spec = observed.spec
    content = {
        "service": observed.uid,
        "version": version.name,
        "artefact": [version.uri, version.digest, *version.bases],
        "engine": _engine_fields(spec.engine, settings),
        "drainSeconds": spec.drain_seconds,
        "feedback": _set_fields(spec.feedback),
        "heldOutPercent": _held_out_percent(observed, version),
        "podOverrides": _set_fields(spec.pod_overrides),
        **_added_fields(spec),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def keys_secret_name(service: Obj) -> str:
    """Name of the Secret with the signing key and the feedback token."""
    return child_name(service, "keys")


def shadow_name(observed: Observed) -> str:
    """Name of the Service of a candidate in the shadow."""
    return f"{observed.name}-shadow"


def shadow_url(observed: Observed, settings: Settings) -> str:
    """Where stable's pods send copies of requests. The dot at the end saves look-ups in the search domains."""
    return f"http://{shadow_name(observed)}.{observed.namespace}.svc.{settings.cluster_domain}."


def serve_task(observed: Observed, version: Version, revision: str, settings: Settings) -> ServeTask:
    """The task of the serving pods."""
    spec, feedback = observed.spec, observed.spec.feedback
    # A revision may return as a candidate after a shadow was added to the spec: its pods then want copies, too.
    shadow = spec.canary.shadow or Shadow()
    ports = {"api_port": API_TLS_PORT, "feedback_port": FEEDBACK_TLS_PORT} if spec.tls else {}
    task = ServeTask(
        namespace=observed.namespace,
        service=observed.name,
        service_uid=observed.uid,
        family=version.family,
        version=version.name,
        revision=revision,
        artefact_uri=version.uri,
        artefact_digest=version.digest,
        artefact_bases=version.bases,
        drain_seconds=spec.drain_seconds,
        request_timeout_seconds=spec.request_timeout_seconds,
        allowed_origins=tuple(spec.allowed_origins),
        api_keys_secret=spec.api_keys.name if spec.api_keys else None,
        tls_secret=spec.tls.secret_name if spec.tls else None,
        cache_uri=spec.model_cache.storage if spec.model_cache else None,
        cache_bytes=quantity(spec.model_cache.max_size) if spec.model_cache else 0,
        shadow_url=shadow_url(observed, settings),
        shadow_percent=shadow.percent,
        shadow_latency_ratio=spec.canary.max_latency_ratio,
        drift_topics=spec.drift.topics,
        held_out_salt=version.held_out_salt,
        held_out_percent=_held_out_percent(observed, version),
        **ports,
        **task_fields(spec.engine, settings),
    )
    if feedback is None:
        return task
    return task.model_copy(
        update={
            "feedback_uri": f"{feedback.storage.rstrip('/')}/{observed.uid}",
            "feedback_max_per_user_per_hour": feedback.max_per_user_per_hour,
            "feedback_retention_days": feedback.retention_days,
        }
    )


def deployment(
    observed: Observed, version: Version, revision: str, replicas: int, settings: Settings, now: datetime
) -> Obj:
    """The Deployment of a new revision, in the role of a candidate. `revision`: that of `revision_of`."""
    spec, engine = observed.spec, resolved(observed.spec.engine, settings)
    selector = {SERVICE: observed.name, REVISION: revision}
    labels = {**selector, VERSION: version.name, FAMILY: version.family}
    template = serving_template(
        serve_task(observed, version, revision, settings),
        labels=labels,
        image=settings.server_image,
        engine=engine,
        settings=settings,
        overrides=spec.pod_overrides,
        keys_secret=keys_secret_name(observed.service),
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": child_name(observed.service, revision),
            "namespace": observed.namespace,
            "labels": {**settings.labels, **labels, STAGE: SERVE, ROLE: "candidate"},
            "annotations": {
                DIGEST: version.digest,
                SINCE: timestamp(now),
                ENGINE_TYPE: engine.type,
                CAN_SHADOW: "true",
            },
            "ownerReferences": [owner_reference(observed.service)],
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "minReadySeconds": MIN_READY_SECONDS,
            "progressDeadlineSeconds": spec.canary.progress_deadline_seconds,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }


def _held_out_percent(observed: Observed, version: Version) -> int:
    """The share of held-out rows for a training from the version; the proxy divides corrections by the same share.

    The salt is not part of the hash, because it belongs to the version, whose name and digest are part of it.
    """
    retraining = observed.spec.retraining
    own = retraining.job_template.spec.data.held_out_percent if retraining else None
    return next((percent for percent in (version.held_out_percent, own) if percent is not None), HELD_OUT_PERCENT)


def _engine_fields(engine: Engine, settings: Settings) -> Any:
    """The engine's fields that differ from their defaults, with the type that runs.

    The type transformers is left out: it was the default before `auto`, and old revisions keep their hash. gpuMemory
    changes no pod.
    """
    kind = type_of(engine, settings)
    fields = _set_fields(engine.model_copy(update={"type": kind, "gpu_memory": None}))
    return {name: value for name, value in fields.items() if (name, value) != ("type", "transformers")}


def _added_fields(spec: InferenceServiceSpec) -> dict[str, Any]:
    """The fields that later releases added, if they are set. If they are not, an old revision keeps its hash."""
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(_ADDED_FIELDS))
    return fields | ({"driftTopics": True} if spec.drift.topics else {})


def _set_fields(model: ApiModel | None) -> Any:
    """The fields that differ from their defaults, so that a new field does not change the hash of an old revision."""
    return None if model is None else model.model_dump(mode="json", exclude_defaults=True)
