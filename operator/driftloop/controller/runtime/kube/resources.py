"""The kinds that the operator reads or writes, and their paths in the API. A fixed table, so no discovery is needed."""

from dataclasses import dataclass

from driftloop.api.base import API_VERSION
from driftloop.controller.vocabulary.labels import MANAGED_BY

_MANAGED = "=".join(MANAGED_BY)


@dataclass(frozen=True)
class Resource:
    """One kind. All except nodes are namespaced. If `watched`, objects that match `selector` are cached."""

    kind: str
    api_version: str
    plural: str
    watched: bool = False
    selector: str | None = None
    applied: bool = False  # written by server-side apply, so the cache keeps managedFields

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """API version without the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of an object; of the collection without `name`; of all namespaces without `namespace`."""
        prefix = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{prefix}{scope}/{self.plural}" + "".join(f"/{part}" for part in (name, subresource) if part)


_TABLE = (
    Resource("FineTuneJob", API_VERSION, "finetunejobs", watched=True),
    Resource("ModelVersion", API_VERSION, "modelversions", watched=True),
    Resource("InferenceService", API_VERSION, "inferenceservices", watched=True),
    Resource("Job", "batch/v1", "jobs", watched=True, selector=_MANAGED),
    Resource("Pod", "v1", "pods", watched=True, selector=_MANAGED),
    Resource("Deployment", "apps/v1", "deployments", watched=True, selector=_MANAGED, applied=True),
    Resource("Service", "v1", "services", watched=True, selector=_MANAGED, applied=True),
    Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", watched=True, selector=_MANAGED, applied=True),
    Resource("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets", watched=True, selector=_MANAGED, applied=True),
    Resource("PersistentVolumeClaim", "v1", "persistentvolumeclaims", watched=True),
    # Not cached: most clusters don't have this kind. Read by name for services with a Gateway.
    Resource("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes", applied=True),
    # Not cached. Secrets are only written, never read.
    Resource("Secret", "v1", "secrets"),
    Resource("Event", "events.k8s.io/v1", "events"),
    Resource("Node", "v1", "nodes"),  # read by label when a job with GPUs is planned
    Resource("Lease", "coordination.k8s.io/v1", "leases"),
)
RESOURCES = {resource.kind: resource for resource in _TABLE}
WATCHED = tuple(resource for resource in _TABLE if resource.watched)
