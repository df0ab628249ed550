"""All input for a decision on a FineTuneJob, read at one time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftloop.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus, Progress
from driftloop.controller.vocabulary.plan import Obj


@dataclass(frozen=True)
class Observed:
    """A FineTuneJob and the objects that belong to it."""

    job: Obj  # the FineTuneJob
    spec: FineTuneJobSpec  # its spec, parsed
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)  # as previously written
    jobs: tuple[Obj, ...] = ()  # controlled by this FineTuneJob
    pods: tuple[Obj, ...] = ()  # of this job's Jobs, by label; a result counts only from a pod that a Job controls
    version: Obj | None = None  # the ModelVersion that this job created
    # Read only before the first Job is created.
    versions: tuple[Obj, ...] = ()  # all ModelVersions of the namespace
    claims: Mapping[str, Obj] = field(default_factory=dict)  # all PersistentVolumeClaims of the namespace, by name
    serving: Obj | None = None  # the InferenceService of model.from.serving
    serving_deployments: tuple[Obj, ...] = ()  # Deployments of that service
    feedback: Obj | None = None  # the InferenceService of data.feedback.service
    resumed: Obj | None = None  # the FineTuneJob of resumeFrom

    # Read for the plan, until there is a train Job.
    gpu_memory: tuple[int, ...] = ()  # bytes per GPU on the nodes that may run the pods, ascending; empty: unknown

    progress: Progress | None = None  # read in this reconcile
    fresh_secret: str = ""  # random; becomes the Ray token if the Secret does not exist yet

    @property
    def name(self) -> str:
        """Name of the job."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the job."""
        return str(self.job["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """UID of the job."""
        return str(self.job["metadata"]["uid"])
