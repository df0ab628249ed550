"""Plans and actions. Reconciling observes everything, decides in a pure function, and executes a plan.

A decider is a pure function `decide(observed, settings, now) -> Plan`. It reads no clock, network or cache: everything
that it needs is in `observed`. The runtime executes the actions of a plan in order and stops at the first failure. The
next reconcile observes again, so it must be able to continue after any number of actions.

Actions that don't depend on the others belong in a separate group, which is tried even if other groups fail. So a
refused PodDisruptionBudget, or a retraining that a quota refuses, does not prevent a rollback.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from driftloop.api.acceptance import Acceptance

Obj = dict[str, Any]  # a Kubernetes object as JSON


class Key(NamedTuple):
    """Identifies one custom resource."""

    kind: str  # FineTuneJob | ModelVersion | InferenceService
    namespace: str
    name: str


@dataclass(frozen=True)
class Create:
    """Create an object once and never change it (Jobs, Secrets, ModelVersions, FineTuneJobs).

    An existing object counts as success if the same parent created it (same controller UID,
    or the same lineage for ModelVersions without an owner). Otherwise the runtime raises NameTaken.
    """

    body: Obj


@dataclass(frozen=True)
class Apply:
    """Server-side apply, never forced over another field manager (Deployments, Services, NetworkPolicies …)."""

    body: Obj


@dataclass(frozen=True)
class Delete:
    """Delete one object in the observed version, with its dependants in the background. Not found is success.

    An object that has changed since may be needed again, or hold a result. Then the deletion is refused (409), and the
    object is observed again.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str | None = None  # None: any version


@dataclass(frozen=True)
class Label:
    """Set labels of one of Driftloop's custom resources, or remove them with None: `in-use` on a ModelVersion.

    The label depends on other objects, so a check of this object's resourceVersion would not protect anything.
    """

    key: Key
    uid: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class Annotate:
    """Set annotations of a Job, which other programs read: no decision of the operator depends on them."""

    namespace: str
    name: str
    uid: str
    annotations: dict[str, str]


@dataclass(frozen=True)
class FailPod:
    """Set the phase of a pod that is Terminating on a lost node to Failed, as the pod garbage collector does.

    Otherwise the Job waits for ever, as its tracking finalizer keeps the pod until its phase is Failed:
    https://github.com/kubernetes/enhancements/issues/6262. A pod that has changed since may have its node back. Then
    the write is refused (409), and the pod is observed again.
    """

    namespace: str
    name: str
    uid: str
    message: str
    resource_version: str | None = None  # None: any version


@dataclass(frozen=True)
class Disrupt:
    """Set the condition DisruptionTarget of a pod that the next action deletes, so that its Job counts no retry."""

    namespace: str
    name: str
    uid: str
    message: str
    resource_version: str | None = None  # None: any version


@dataclass(frozen=True)
class Adjust:
    """Merge-patch replicas, labels and annotations of an existing Deployment. None removes a key.

    The pod template is never changed: an operator upgrade may render it differently, and must not restart serving pods.
    The patch contains the observed UID and resourceVersion. If the Deployment was created again or has changed since,
    the patch is refused (409), and the Deployment is observed again. A plan adjusts a Deployment at most once, because
    its own first write is such a change.
    """

    namespace: str
    name: str
    uid: str
    replicas: int | None = None
    labels: dict[str, str | None] = field(default_factory=dict)
    annotations: dict[str, str | None] = field(default_factory=dict)
    resource_version: str | None = None  # None: any version


Action = Create | Apply | Delete | Label | Annotate | FailPod | Disrupt | Adjust


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event on the reconciled object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Group:
    """Actions that depend on the previous ones in the same group. A refused action ends only this group."""

    actions: tuple[Action, ...]
    fields: tuple[str, ...] = ()  # status fields that belong to this group: they are written even if the chain fails
    undone: Obj = field(default_factory=dict)  # status fields to write instead if the group is refused
    events: tuple[Event, ...] = ()  # posted when all actions of the group are done


def independent(actions: Iterable[Action]) -> tuple[Group, ...]:
    """One group per action."""
    return tuple(Group((action,)) for action in actions)


@dataclass(frozen=True)
class Plan:
    """What to do: independent groups, and the chain of actions that the status describes.

    `status` is the complete desired status (None: keep it). It is written only if it differs. If the chain is refused,
    the object becomes Stalled, and only the status fields of groups are written.
    """

    actions: tuple[Action, ...] = ()  # the chain: each action depends on the previous ones
    status: Obj | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None  # seconds
    beside: tuple[Group, ...] = ()  # tried before the chain, independently; a refused group becomes a condition

    @property
    def writes(self) -> tuple[Action, ...]:
        """All actions, in the order of execution."""
        return (*(action for group in self.beside for action in group.actions), *self.actions)


class NameTaken(Exception):
    """An object with the desired name exists and belongs to another owner."""


@dataclass(frozen=True)
class Settings:
    """The operator's configuration, from flags and environment."""

    trainer_image: str
    server_image: str
    vllm_image: str | None = None  # for services that name none; None: vLLM runs only with an image of the user's
    namespaces: tuple[str, ...] = ()  # empty: all
    image_pull_policy: str = "IfNotPresent"
    prometheus_url: str | None = None
    alertmanager_urls: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    gateway_namespaces: tuple[str, ...] = ()  # other namespaces whose Gateways a service may name
    labels: dict[str, str] = field(default_factory=dict)  # labels for every child
    acceptance: Acceptance = field(default_factory=Acceptance)  # what all services require, beside spec.acceptance
