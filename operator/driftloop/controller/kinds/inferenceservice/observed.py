"""All input for a decision on an InferenceService, parsed from the API's JSON without interpretation."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from pydantic import ValidationError

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobPhase
from driftloop.api.inferenceservice import ColdStart, InferenceServiceSpec, InferenceServiceStatus, SleepState
from driftloop.api.modelversion import Gate, ModelShape, ModelVersion, ModelVersionPhase, Trigger
from driftloop.contract.topics import TopicsReport
from driftloop.controller.drift.detector import Counters
from driftloop.controller.kinds.groups import PodGroup
from driftloop.controller.kinds.inferenceservice.command import Record, parse_record
from driftloop.controller.kinds.inferenceservice.idle import Requests
from driftloop.controller.kinds.versions import has_shown_gain
from driftloop.controller.pods.group import nodes_of
from driftloop.controller.pods.serving import has_tls
from driftloop.controller.traffic import Arms, ShadowCounts
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.labels import (
    ANALYSIS,
    CAN_SHADOW,
    COMMAND,
    DIGEST,
    ENGINE_TYPE,
    FAILED,
    HIDDEN,
    PROMOTED,
    RETRIED,
    REVISION,
    ROLE,
    SHADOW_STARTED,
    SINCE,
    SLEEP,
    TRIGGER,
    VERSION,
    WEIGHT,
)
from driftloop.controller.vocabulary.objects import annotations, labels
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.world import RouteUnknown

Role = Literal["stable", "candidate", "retired", "failed"]
ROLES: tuple[Role, ...] = ("stable", "candidate", "retired", "failed")


@dataclass(frozen=True)
class Version:
    """A ModelVersion of the family."""

    name: str  # metadata.name
    uid: str  # metadata.uid
    family: str  # the family that it belongs to
    uri: str  # location of its model
    digest: str  # digest of its model
    created: datetime  # creation time
    phase: ModelVersionPhase | None = None  # what its evaluation came to; None: not begun
    reason: str = ""  # reason of its Ready condition
    summary: str = ""  # summary of its gates
    judged: datetime | None = None  # when it got its verdict
    baseline_service: str | None = None  # the service with whose stable version it was compared
    baseline_digest: str | None = None  # digest of the version that it was compared with
    job_uid: str | None = None  # UID of the FineTuneJob that trained it
    held_out_salt: str | None = None  # from its lineage; None: the family is the salt
    held_out_percent: int | None = None  # None: not recorded
    gained: bool = False  # whether a target suite has shown a gain
    gates: tuple[Gate, ...] = ()  # results of its gates
    engine: str | None = None  # hash of the engine of its evaluation; None: unknown
    evaluated: datetime | None = None  # end of its evaluation; None: unknown
    model: ModelShape | None = None  # None: not recorded
    bases: tuple[str, ...] = ()  # of an adapter: the folder of its base, and so on

    @property
    def age_key(self) -> tuple[datetime, str]:
        """Sort key by creation time; the name decides between two versions of the same second."""
        return self.created, self.name


@dataclass(frozen=True)
class Sleep:
    """How far a stable revision is between awake and asleep."""

    state: SleepState  # Closing, Asleep or Waking
    since: datetime  # since when


@dataclass(frozen=True)
class Revision:
    """A Deployment of this service."""

    name: str  # name of the Deployment
    uid: str  # UID of the Deployment
    revision: str  # the hash that names it (revision.py)
    version: str  # name of the ModelVersion that it serves
    digest: str  # digest of the model that it serves; "": not recorded
    role: Role  # what it is for this service
    since: datetime  # when it got its role
    replicas: int  # wanted pods
    available: int = 0  # pods that have been ready for minReadySeconds
    pods: int = 0  # existing pods
    current: bool = True  # whether the Deployment's status is about its current spec
    analysis_started: datetime | None = None  # when its comparison with stable began
    promoted: datetime | None = None  # when its promotion began
    failed: str | None = None  # why it was rolled back
    retried: bool = False  # whether its failure came after the retry that the annotation requests
    unavailable_since: datetime | None = None  # since when its Deployment is not Available
    problem: str = ""  # why its pods do not serve
    broken: bool = False  # whether no restart can solve the problem
    resource_version: str | None = None  # of the Deployment that was read, so that a newer one is not deleted
    # Whether no engine has run yet in pods that are not ready: they wait for a node, an image, a volume or the model.
    # Or their proxies wait for a Secret.
    unstarted: bool = False
    engine: str | None = None  # None: created before the operator recorded it
    obeyed: Record | None = None  # the last command of a person about it
    has_tls: bool = False  # whether its pods serve HTTPS
    hidden: bool = False  # whether the Service selects only stable's pods, so that it has no users, or by its weight
    weight: int | None = None  # percent of the Gateway's requests that are meant for it; None: not by weight
    shadow_started: datetime | None = None  # since when it gets copies of requests
    can_shadow: bool = False  # whether its pods can send copies of their requests
    cold_start: ColdStart | None = None  # how long the start of a pod took
    sleep: Sleep | None = None  # None: awake
    nodes: int = 1  # pods per replica
    groups: tuple[PodGroup, ...] = ()  # its leaders with their workers; empty if a replica is one pod

    @property
    def in_shadow(self) -> bool:
        """Whether it has no users before it has passed its shadow."""
        return self.hidden and self.weight is None

    @property
    def has_users(self) -> bool:
        """Whether users' requests may reach its pods."""
        return not self.hidden or bool(self.weight)

    @property
    def is_held(self) -> bool:
        """Whether a person has paused its rollout."""
        return self.obeyed is not None and self.obeyed.command.action == "pause"

    @property
    def resumed(self) -> datetime | None:
        """When a person let its rollout go on; None if that was not the last command."""
        return self.obeyed.time if self.obeyed and self.obeyed.command.action == "resume" else None


@dataclass(frozen=True)
class Job:
    """A FineTuneJob with this service's label."""

    name: str  # metadata.name
    uid: str  # metadata.uid
    created: datetime  # creation time
    phase: FineTuneJobPhase | None = None  # how far it is; None: not begun
    reason: str = ""  # reason of its failure
    finished: datetime | None = None  # when it ended
    version: str | None = None  # name of the ModelVersion that it created
    trigger: Trigger | None = None  # what triggered it, if that is recorded


@dataclass(frozen=True)
class Keys:
    """New random values, in case a Secret must be created."""

    signing_key: str  # signs response ids
    token: str  # the token for the feedback API


@dataclass(frozen=True)
class Observed:
    """An InferenceService and the objects that belong to it."""

    service: Obj  # the InferenceService
    spec: InferenceServiceSpec  # its spec, parsed
    status: InferenceServiceStatus  # its status, as previously written
    keys: Keys  # for a Secret that does not exist yet
    versions: tuple[Version, ...] = ()  # ModelVersions of its family
    revisions: tuple[Revision, ...] = ()  # its Deployments
    jobs: tuple[Job, ...] = ()  # FineTuneJobs with its label
    services: tuple[Obj, ...] = ()  # Services that it owns
    route: Obj | RouteUnknown | None = None  # its HTTPRoute, read only if the spec names a Gateway; None: there is none
    # From Prometheus; None: not queried, or no answer.
    arms: Arms | None = None  # requests of both revisions of a canary
    shadow_counts: ShadowCounts | None = None  # answers in the shadow, beside those of stable
    counters: Counters | None = None  # requests of the window that drift is checked for
    topics: TopicsReport | None = None  # what a pod's new requests are about, during an alarm
    requests: Requests | None = None  # what its pods and its door say of their requests; None: not asked
    door: Obj | None = None  # the Deployment of its door
    samples: int | None = None  # corrections that a retraining could use
    gpu_memory: tuple[int, ...] = ()  # bytes per GPU on the nodes that may run the pods; empty: unknown

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.service["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.service["metadata"]["uid"])

    @property
    def annotations(self) -> dict[str, str]:
        return annotations(self.service)

    def version(self, name: str | None) -> Version | None:
        """The ModelVersion of that name."""
        return next((version for version in self.versions if version.name == name), None)

    @property
    def has_groups(self) -> bool:
        """Whether a replica may be several pods: in the spec, or in a revision that still has pods."""
        return self.spec.engine.nodes > 1 or any(revision.nodes > 1 for revision in self.revisions)

    def role(self, role: Role) -> Revision | None:
        """The revision in that role. Between two writes of a promotion two may have it; then the later one counts."""
        in_role = [revision for revision in self.revisions if revision.role == role]
        return max(in_role, key=lambda revision: (revision.since, revision.name), default=None)


def parse_version(obj: Obj) -> Version | None:
    """Parse a ModelVersion; None if it does not parse, which its own condition reports."""
    try:
        parsed = ModelVersion.model_validate(obj)
    except ValidationError:
        return None
    meta, baseline = obj["metadata"], parsed.status.baseline
    ready = [c for c in parsed.status.conditions if c.type == "Ready"]
    return Version(
        name=meta["name"],
        uid=meta["uid"],
        family=parsed.spec.family,
        uri=parsed.spec.artefact.uri,
        digest=parsed.spec.artefact.digest,
        created=parse_timestamp(meta["creationTimestamp"]),
        phase=parsed.status.phase,
        summary=parsed.status.gate_summary or "",
        reason=ready[0].reason if ready else "",
        judged=moment(ready[0].last_transition_time if ready else None),
        baseline_service=baseline.service if baseline else None,
        baseline_digest=baseline.digest if baseline else None,
        job_uid=parsed.spec.lineage.job_uid,
        held_out_salt=parsed.spec.lineage.held_out_salt,
        held_out_percent=parsed.spec.lineage.held_out_percent,
        gained=has_shown_gain(parsed.status.gates),
        gates=tuple(parsed.status.gates),
        engine=parsed.status.engine,
        evaluated=moment(parsed.status.evaluated),
        model=parsed.spec.model,
        bases=tuple(parsed.spec.artefact.bases),
    )


def parse_revision(obj: Obj) -> Revision | None:
    """Parse a Deployment of a revision; None for a Deployment without the labels of one."""
    meta, status = obj["metadata"], obj.get("status") or {}
    marks, notes = labels(obj), annotations(obj)
    role = next((role for role in ROLES if role == marks.get(ROLE)), None)
    if role is None or REVISION not in marks or VERSION not in marks:
        return None
    # A status that is older than the spec counts the pods of the previous spec.
    current = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    return Revision(
        name=meta["name"],
        uid=meta["uid"],
        revision=marks[REVISION],
        version=marks[VERSION],
        digest=notes.get(DIGEST, ""),
        role=role,
        since=moment(notes.get(SINCE)) or parse_timestamp(meta["creationTimestamp"]),
        replicas=obj["spec"].get("replicas", 1),
        available=status.get("availableReplicas") or 0,
        # Until the Deployment controller has seen the new spec, there may be pods that the status does not count.
        pods=(status.get("replicas") or 0) if current else max(1, status.get("replicas") or 0),
        current=current,
        analysis_started=moment(notes.get(ANALYSIS)),
        promoted=moment(notes.get(PROMOTED)),
        failed=notes.get(FAILED),
        retried=RETRIED in notes,
        unavailable_since=_unavailable_since(status.get("conditions") or []),
        resource_version=meta.get("resourceVersion"),
        engine=notes.get(ENGINE_TYPE),
        obeyed=parse_record(notes.get(COMMAND)),
        has_tls=has_tls(obj["spec"]["template"]),
        hidden=HIDDEN in notes,
        weight=_number(notes.get(WEIGHT)),
        shadow_started=moment(notes.get(SHADOW_STARTED)),
        can_shadow=CAN_SHADOW in notes,
        sleep=_sleep(notes.get(SLEEP)),
        nodes=nodes_of(obj["spec"]["template"]),
    )


def parse_job(obj: Obj) -> Job | None:
    """Parse a FineTuneJob; None if it does not parse."""
    try:
        parsed = FineTuneJob.model_validate(obj)
    except ValidationError:
        return None
    meta = obj["metadata"]
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        created=parse_timestamp(meta["creationTimestamp"]),
        phase=parsed.status.phase,
        reason=next((c.reason for c in parsed.status.conditions if c.type == "Failed"), ""),
        finished=moment(parsed.status.finished),
        version=parsed.status.version,
        trigger=_trigger(annotations(obj).get(TRIGGER)),
    )


def _trigger(document: str | None) -> Trigger | None:
    try:
        return Trigger.model_validate_json(document) if document else None
    except ValidationError:
        return None


def _unavailable_since(conditions: Iterable[Obj]) -> datetime | None:
    unavailable = [c for c in conditions if c.get("type") == "Available" and c.get("status") == "False"]
    return moment(unavailable[0].get("lastTransitionTime")) if unavailable else None


def _sleep(text: str | None) -> Sleep | None:
    """None for another text: then the service counts as awake."""
    word, _, since = (text or "").partition(" ")
    state, begun = next((state for state in get_args(SleepState) if state == word), None), moment(since)
    return Sleep(state, begun) if state and begun else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def moment(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it; None if it is absent or no time."""
    try:
        return parse_timestamp(text) if text else None
    except ValueError:
        return None
