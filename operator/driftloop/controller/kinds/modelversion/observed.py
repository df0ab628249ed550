"""All input for a decision on a ModelVersion, read at one time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftloop.api.modelversion import ModelVersionSpec, ModelVersionStatus
from driftloop.controller.kinds.groups import PodGroup
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.objects import annotations
from driftloop.controller.vocabulary.plan import Obj


@dataclass(frozen=True)
class Observed:
    """A ModelVersion, the objects that belong to it, and the objects that use it."""

    version: Obj  # the ModelVersion
    spec: ModelVersionSpec  # its spec, parsed
    status: ModelVersionStatus = field(default_factory=ModelVersionStatus)  # as previously written
    jobs: tuple[Obj, ...] = ()  # controlled by this ModelVersion
    pods: tuple[Obj, ...] = ()  # of those Jobs
    groups: tuple[PodGroup, ...] = ()  # those pods with their workers; empty if the engine is one pod
    services: tuple[Obj, ...] = ()  # InferenceServices of the family, by name
    deployments: tuple[Obj, ...] = ()  # all Deployments in the namespace that the operator created
    # All ModelVersions in the namespace; if it is not evaluated again, only the stable ones.
    versions: tuple[Obj, ...] = ()
    adapters: tuple[Obj, ...] = ()  # ModelVersions of `deployments` that are merged onto others
    claims: Mapping[str, Obj] = field(default_factory=dict)  # all PersistentVolumeClaims of the namespace, by name
    gpu_memory: tuple[int, ...] = ()  # bytes per GPU on the nodes that may run the evaluation; empty: unknown

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations of the version, by which people approve or retry it."""
        return annotations(self.version)

    @property
    def wants_retry(self) -> bool:
        """Whether the retry annotation has a new value."""
        return self.annotations.get(RETRY) not in (None, self.status.retried)

    @property
    def name(self) -> str:
        """Name of the version."""
        return str(self.version["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the version."""
        return str(self.version["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """UID of the version."""
        return str(self.version["metadata"]["uid"])
