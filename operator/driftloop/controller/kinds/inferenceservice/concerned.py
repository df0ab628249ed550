"""Which InferenceServices to reconcile when an object changes. Pure look-ups."""

from collections.abc import Iterator

from driftloop.controller.kinds.concerns import is_pod_of, named_by_label, users_of_claim
from driftloop.controller.pods.door import DOOR
from driftloop.controller.pods.group import worker_stage
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.vocabulary.labels import SERVICE
from driftloop.controller.vocabulary.objects import field, key
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import Lookup

KIND = "InferenceService"


def concerned(changed: Obj, objects: Lookup) -> Iterator[Key]:
    """The service of a pod, door or retraining job, the services of a version's family, or those that use a claim."""
    if is_pod_of(changed, (SERVE, worker_stage(SERVE), DOOR)) or changed["kind"] == "FineTuneJob":
        yield from named_by_label(changed, KIND, SERVICE)
    if changed["kind"] == "ModelVersion":
        family = field(changed, "spec", "family")
        for service in objects.list(KIND, changed["metadata"]["namespace"]):
            if field(service, "spec", "model", "family") == family:
                yield key(service)
    yield from users_of_claim(changed, KIND, objects)
