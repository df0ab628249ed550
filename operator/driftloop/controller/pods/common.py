"""Parts that all pods share: restricted security context, memory volumes, storage, the platform's overrides. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from driftloop.api.base import PodOverrides, Resources
from driftloop.contract import task as tasks
from driftloop.contract.names import DISK_DIR, DISK_LIMIT_ENV, SCRATCH_DIR, TASK_ENV, VOLUMES
from driftloop.contract.uris import claims_of
from driftloop.controller.vocabulary.plan import Obj, Settings

FETCH, ENGINE = "fetch", "engine"  # names of containers of a pod that serves a model
USER = 65532  # the user "nonroot" of the distroless base images

# A kubelet restarts in less time. With the default of 300 s, training would wait that long for a lost node's pod.
LOST_NODE_TOLERATIONS: list[Obj] = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for state in ("not-ready", "unreachable")
]


_GPUS = "gpus"  # name of the claim within a pod


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a pod's container: so many of an extended resource, or those of a claim that each pod gets.

    https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
    """

    resource: str
    number: int
    claim_template: str | None = None

    @property
    def of_container(self) -> Obj:
        """Their part in the `resources` of the container. The limit of an extended resource is also its request."""
        if not self.number:
            return {}
        if self.claim_template is not None:
            return {"claims": [{"name": _GPUS}]}
        return {"limits": {self.resource: str(self.number)}}

    @property
    def of_pod(self) -> list[Obj]:
        """The `resourceClaims` of the pod."""
        claimed = self.number and self.claim_template is not None
        return [{"name": _GPUS, "resourceClaimTemplateName": self.claim_template}] if claimed else []


def restricted_container(
    name: str,
    image: str,
    command: list[str],
    *,
    settings: Settings,
    pull_policy: str | None = None,
    env: Iterable[Obj] = (),
    ports: Mapping[str, int] | None = None,
    resources: Resources | None = None,
    gpus: Gpus | None = None,
    mounts: Iterable[Obj] = (),
    overrides: PodOverrides | None = None,
) -> Obj:
    """A container with a read-only root file system; with `pod_spec` it meets the restricted Pod Security Standard.

    `ports` maps names to numbers. If a container crashes without a termination message, Kubernetes uses the end of its
    log as the message, so that a condition can show the cause.
    """
    container: Obj = {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy or settings.image_pull_policy,
        "command": command,
        # Libraries write caches to HOME, and the root file system is read-only.
        "env": [{"name": "HOME", "value": SCRATCH_DIR}, *env],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": list(mounts),
    }
    if ports:
        container["ports"] = [
            {"name": port_name, "containerPort": port, "protocol": "TCP"} for port_name, port in ports.items()
        ]
    if requirements := container_resources(resources or Resources(), gpus):
        container["resources"] = requirements
    if overrides and overrides.storage_secret:
        container["envFrom"] = [{"secretRef": {"name": overrides.storage_secret.name}}]
    return container


def container_resources(resources: Resources, gpus: Gpus | None) -> Obj:
    """The `resources` of a container; empty if nothing is wanted."""
    of_gpus = gpus.of_container if gpus else {}
    limits = {**resources.limits, **of_gpus.get("limits", {})}
    requirements = {"requests": dict(resources.requests), **of_gpus, "limits": limits}
    return {key: value for key, value in requirements.items() if value}


def pod_spec(
    containers: list[Obj],
    *,
    volumes: Iterable[Obj],
    overrides: PodOverrides,
    init_containers: Iterable[Obj] = (),
    restart_policy: str | None = None,
    grace_seconds: int | None = None,
    tolerations: Iterable[Obj] = (),
    gpus: Gpus | None = None,
) -> Obj:
    """A pod spec with the platform's overrides, and without an API token, service links and root."""
    spec: Obj = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # By default each start changes the group of every file, which takes long on a volume of checkpoints:
            # https://github.com/kubernetes/kubernetes/issues/69699
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": list(volumes),
    }
    optional = {
        "initContainers": list(init_containers),
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace_seconds,
        "nodeSelector": dict(overrides.node_selector),
        "tolerations": [*tolerations, *(toleration.dump() for toleration in overrides.tolerations)],
        "affinity": overrides.affinity.dump() if overrides.affinity else {},
        "topologySpreadConstraints": [spread.dump() for spread in overrides.topology_spread_constraints],
        "priorityClassName": overrides.priority_class_name,
        "runtimeClassName": overrides.runtime_class_name,
        "schedulerName": overrides.scheduler_name,
        "serviceAccountName": overrides.service_account_name,
        "resourceClaims": gpus.of_pod if gpus else [],
        "imagePullSecrets": [{"name": secret.name} for secret in overrides.image_pull_secrets],
    }
    return spec | {key: value for key, value in optional.items() if value not in (None, [], {})}


def with_affinity(platform: Obj, own: Obj) -> Obj:
    """The terms of both affinities, all of which hold. `own` has no required terms about nodes.

    >>> preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    >>> with_affinity({"podAffinity": {preferred: ["a"]}}, {"podAffinity": {preferred: ["b"]}, "podAntiAffinity": {}})
    {'podAffinity': {'preferredDuringSchedulingIgnoredDuringExecution': ['a', 'b']}, 'podAntiAffinity': {}}
    """
    joined = {}
    for kind in (*platform, *(kind for kind in own if kind not in platform)):
        theirs, ours = platform.get(kind, {}), own.get(kind, {})
        both = {rule: [*theirs[rule], *ours[rule]] for rule in theirs if rule in ours}
        joined[kind] = theirs | ours | both
    return joined


def pod_metadata(labels: Mapping[str, str], overrides: PodOverrides, settings: Settings) -> Obj:
    """Labels and annotations of a pod. `labels` take precedence, because selectors and policies depend on them."""
    return {
        "labels": {**settings.labels, **overrides.labels, **labels},
        "annotations": dict(overrides.annotations),
    }


def scratch() -> tuple[list[Obj], list[Obj]]:
    """Volume and mount of /tmp in memory. Its content counts against the container's memory limit."""
    return [memory_volume("tmp")], [{"name": "tmp", "mountPath": SCRATCH_DIR}]


def scratch_with_shm(prefix: str = "") -> tuple[list[Obj], list[Obj]]:
    """Volumes and mounts of /tmp and /dev/shm in memory. `prefix` keeps the volumes apart from other containers'."""
    paths = {f"{prefix}tmp": SCRATCH_DIR, f"{prefix}shm": "/dev/shm"}  # noqa: S108
    return [memory_volume(name) for name in paths], [{"name": name, "mountPath": path} for name, path in paths.items()]


def disk() -> tuple[list[Obj], list[Obj]]:
    """Volume and mount on the node's disk, for what is too large for memory."""
    return [{"name": "disk", "emptyDir": {}}], [{"name": "disk", "mountPath": DISK_DIR}]


def disk_limit() -> Obj:
    """The variable with the bytes that the container may write to the node's disk: without a limit, the node's own."""
    return {"name": DISK_LIMIT_ENV, "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage"}}}


def memory_volume(name: str) -> Obj:
    """A volume in memory."""
    return {"name": name, "emptyDir": {"medium": "Memory"}}


def missing_claim(uris: Iterable[str | None], claims: Mapping[str, Obj]) -> str | None:
    """The message about the first claim that does not exist; None if all exist."""
    for claim in claims_of(uris):
        if claim not in claims:
            return f"PersistentVolumeClaim {claim} is not in this namespace: create it, or correct the pvc:// URI"
    return None


def mounts_for(uris: Iterable[str | None], *, read: Iterable[str | None] = ()) -> tuple[list[Obj], list[Obj]]:
    """Volumes and mounts, one per claim, at /volumes/<claim>. A claim that is only in `read` is mounted read-only."""
    writable = claims_of(uris)
    volumes, mounts = [], []
    for claim in sorted({*writable, *claims_of(read)}):
        # A claim's name can be too long for a volume's name, and can contain dots.
        name = f"claim-{hashlib.sha256(claim.encode()).hexdigest()[:8]}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        mount: Obj = {"name": name, "mountPath": f"{VOLUMES}/{claim}"}
        mounts.append(mount if claim in writable else mount | {"readOnly": True})
    return volumes, mounts


class TaskTooLarge(ValueError):
    """A task document that is too large for an environment variable."""


def task_env(task: tasks.AnyTask) -> list[Obj]:
    """The environment variable with the task. Raises TaskTooLarge above 64 KiB."""
    document = tasks.encode(task)
    if (size := len(document.encode())) > tasks.MAX_ENV_BYTES:
        raise TaskTooLarge(
            f"the task has {size} bytes, the limit is {tasks.MAX_ENV_BYTES}: list fewer sources (join their files) or "
            "suites, or shorten chatTemplate and the prompts of suites and judges"
        )
    return [{"name": TASK_ENV, "value": document}]
