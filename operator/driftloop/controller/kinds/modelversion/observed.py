"""Everything that deciding about a ModelVersion needs, read at one time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftloop.api.modelversion import ModelVersionSpec, ModelVersionStatus
from driftloop.controller.vocabulary.objects import annotations
from driftloop.controller.vocabulary.plan import Obj


@dataclass(frozen=True)
class Observed:
    """A ModelVersion and what belongs to it, or has it in use."""

    version: Obj
    spec: ModelVersionSpec
    status: ModelVersionStatus = field(default_factory=ModelVersionStatus)
    jobs: tuple[Obj, ...] = ()  # controlled by this ModelVersion
    pods: tuple[Obj, ...] = ()  # of those Jobs
    services: tuple[Obj, ...] = ()  # InferenceServices of the family, by name
    deployments: tuple[Obj, ...] = ()  # all Deployments of ours in the namespace
    versions: tuple[Obj, ...] = ()  # the namespace's ModelVersions; once judged, those that are stable
    claims: Mapping[str, Obj] = field(default_factory=dict)  # all PersistentVolumeClaims of the namespace, by name

    @property
    def annotations(self) -> dict[str, str]:
        """What people say of the version."""
        return annotations(self.version)

    @property
    def name(self) -> str:
        """Name of the version."""
        return str(self.version["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.version["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.version["metadata"]["uid"])
