"""Everything that deciding about a FineTuneJob needs, read at one time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftloop.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus, Progress
from driftloop.controller.vocabulary.plan import Obj


@dataclass(frozen=True)
class Observed:
    """A FineTuneJob and what belongs to it."""

    job: Obj
    spec: FineTuneJobSpec
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    jobs: tuple[Obj, ...] = ()  # controlled by this FineTuneJob
    pods: tuple[Obj, ...] = ()  # of Jobs named like this FineTuneJob's; results count only from pods a Job controls
    version: Obj | None = None  # the ModelVersion that came of this very job
    # What is looked at before the first Job, and left out once there is one.
    versions: tuple[Obj, ...] = ()  # all ModelVersions of the namespace
    claims: Mapping[str, Obj] = field(default_factory=dict)  # all PersistentVolumeClaims of the namespace, by name
    serving: Obj | None = None  # the InferenceService of model.from.serving
    serving_deployments: tuple[Obj, ...] = ()
    feedback: Obj | None = None  # the InferenceService of data.feedback.service

    # What the plan needs besides, until there is a train Job.
    gpu_memory: tuple[int, ...] = ()  # bytes of a GPU on the nodes that may take the pods, rising; empty: nobody knows

    progress: Progress | None = None  # freshly read
    fresh_secret: str = ""  # random; becomes the Ray token if the Secret isn't there yet

    @property
    def name(self) -> str:
        """Name of the job."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.job["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.job["metadata"]["uid"])
