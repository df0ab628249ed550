"""Which ModelVersions to reconcile when an object changes. Pure look-ups."""

from collections.abc import Iterator

from driftloop.controller.kinds.concerns import is_pod_of, named_by_label, users_of_claim
from driftloop.controller.kinds.versions import bases
from driftloop.controller.pods.group import worker_stage
from driftloop.controller.pods.jobs import EVALUATE
from driftloop.controller.vocabulary.labels import VERSION
from driftloop.controller.vocabulary.objects import field, key
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import Lookup

KIND = "ModelVersion"


def concerned(changed: Obj, objects: Lookup) -> Iterator[Key]:
    """The version of a pod or Deployment, those of a service's family, those that use a claim, an adapter's bases."""
    if is_pod_of(changed, (EVALUATE, worker_stage(EVALUATE))) or changed["kind"] == "Deployment":
        yield from named_by_label(changed, KIND, VERSION)
    if changed["kind"] == "InferenceService":
        family = field(changed, "spec", "model", "family")
        for version in objects.list(KIND, changed["metadata"]["namespace"]):
            if field(version, "spec", "family") == family:
                yield key(version)
    if changed["kind"] == KIND and (uris := bases(changed)):
        for version in objects.list(KIND, changed["metadata"]["namespace"]):
            if field(version, "spec", "artefact", "uri") in uris:
                yield key(version)
    yield from users_of_claim(changed, KIND, objects)
