"""The vocabulary of reconciling: observe everything, decide purely, execute a plan.

A decider is a pure function `decide(observed, settings, now) -> Plan`. It reads no clock, no network and no cache;
whatever it needs is in `observed`. The runtime executes a plan's actions in order and stops at the first failure:
the next reconcile observes again, so every prefix of them must be a state to go on from. A plan is groups, by
construction: what does not build on the rest goes into a group of its own, and is tried whatever became of the others.
A refused PodDisruptionBudget, or a retraining that a quota refuses, keeps no rollback from happening.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Obj = dict[str, Any]  # a Kubernetes object as JSON


class Key(NamedTuple):
    """One custom resource."""

    kind: str  # FineTuneJob | ModelVersion | InferenceService
    namespace: str
    name: str


@dataclass(frozen=True)
class Create:
    """Create once and never touch again (Jobs, Secrets, ModelVersions, FineTuneJobs).

    An existing object counts as success if the same parent created it (same controller UID,
    or for ownerless ModelVersions the same lineage); else the runtime raises NameTaken.
    """

    body: Obj


@dataclass(frozen=True)
class Apply:
    """Server-side apply, never forced over a foreign field manager (Deployments, Services, NetworkPolicies ...)."""

    body: Obj


@dataclass(frozen=True)
class Delete:
    """Delete one object as it was decided on, with its dependants in the background. Not found is success.

    What has changed since may be wanted again, or hold a result: it is refused (409) and observed again.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str | None = None  # None: whatever it is now


@dataclass(frozen=True)
class Label:
    """Set (or with None remove) labels of a custom resource of ours: `in-use` on a ModelVersion.

    What the label says is decided on other objects, so its own resourceVersion would guard nothing.
    """

    key: Key
    uid: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class FailPod:
    """Set the phase of a pod that is Terminating on a lost node to Failed, as the pod garbage collector would.

    Without it the Job waits for ever: its tracking finalizer holds the pod while its phase isn't Failed.
    A pod that has changed since, as its node may be back, is refused (409) and observed again.
    """

    namespace: str
    name: str
    uid: str
    message: str
    resource_version: str | None = None  # None: whatever it is now


@dataclass(frozen=True)
class Adjust:
    """Merge-patch replicas, labels and annotations of a Deployment that was created once; None removes a key.

    Its pod template is out of reach: an operator upgrade, whose own rendering may differ, restarts no serving pod.
    The patch carries the UID and the resourceVersion that was decided on: a Deployment that was created anew or has
    changed since, which a stale cache doesn't show, is refused (409) and observed again.
    A plan adjusts a Deployment once at most, as its own first write would be such a change.
    """

    namespace: str
    name: str
    uid: str
    replicas: int | None = None
    labels: dict[str, str | None] = field(default_factory=dict)
    annotations: dict[str, str | None] = field(default_factory=dict)
    resource_version: str | None = None  # None: whatever it is now


Action = Create | Apply | Delete | Label | FailPod | Adjust


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event on the reconciled object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Group:
    """Actions of which each builds on those before it. What is refused in a group ends that group, and no other."""

    actions: tuple[Action, ...]
    fields: tuple[str, ...] = ()  # of the status that are this group's own: they hold whatever becomes of the chain
    undone: Obj = field(default_factory=dict)  # fields of the status to write instead when the group is refused
    events: tuple[Event, ...] = ()  # told when all of it is done


def independent(actions: Iterable[Action]) -> tuple[Group, ...]:
    """A group of each."""
    return tuple(Group((action,)) for action in actions)


@dataclass(frozen=True)
class Plan:
    """What to do: groups that are independent of each other, and the chain that the status is about.

    `status` is the whole wanted status (None: leave it), written only when it differs. When the chain is refused, the
    object is Stalled, and of its status only the groups' own fields are written.
    """

    actions: tuple[Action, ...] = ()  # the chain: each one builds on those before it
    status: Obj | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None  # seconds
    beside: tuple[Group, ...] = ()  # tried before the chain, each for itself; what is refused is a condition

    @property
    def writes(self) -> tuple[Action, ...]:
        """All actions, in the order in which they are tried."""
        return (*(action for group in self.beside for action in group.actions), *self.actions)


class NameTaken(Exception):
    """An object of the wanted name exists and belongs to somebody else."""


@dataclass(frozen=True)
class Settings:
    """The operator's configuration, from flags and environment."""

    trainer_image: str
    server_image: str
    namespaces: tuple[str, ...] = ()  # empty: all
    image_pull_policy: str = "IfNotPresent"
    prometheus_url: str | None = None
    alertmanager_urls: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    labels: dict[str, str] = field(default_factory=dict)  # added to every child
