"""Which FineTuneJobs to reconcile when an object changes. Pure look-ups."""

from collections.abc import Iterator

from driftloop.controller.kinds.concerns import is_pod_of, named_by_label, unfinished, users_of_claim
from driftloop.controller.pods.jobs import PREPARE, TRAIN
from driftloop.controller.vocabulary.labels import JOB
from driftloop.controller.vocabulary.objects import field, key
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import Lookup

KIND = "FineTuneJob"


def concerned(changed: Obj, objects: Lookup) -> Iterator[Key]:
    """The job of a pod or version, the jobs that start from a version, service or job, the jobs that use a claim."""
    if is_pod_of(changed, (PREPARE, TRAIN)) or changed["kind"] == "ModelVersion":
        yield from named_by_label(changed, KIND, JOB)
    if changed["kind"] in ("ModelVersion", "InferenceService"):
        for job in unfinished(objects.list(KIND, changed["metadata"]["namespace"])):
            if _starts_from(field(job, "spec", "model", "from"), changed) or _is_anchor(job, changed):
                yield key(job)
    if changed["kind"] == KIND:
        for job in unfinished(objects.list(KIND, changed["metadata"]["namespace"])):
            if field(job, "spec", "resumeFrom") == changed["metadata"]["name"]:
                yield key(job)
    yield from users_of_claim(changed, KIND, objects)


def _is_anchor(job: Obj, changed: Obj) -> bool:
    named = field(job, "spec", "evaluation", "anchor")
    return changed["kind"] == "ModelVersion" and bool(named == changed["metadata"]["name"])


def _starts_from(source: object, changed: Obj) -> bool:
    name = changed["metadata"]["name"]
    if changed["kind"] == "InferenceService":
        return bool(field(source, "serving", "name") == name)
    family = field(changed, "spec", "family")
    return bool(field(source, "family") == family or field(source, "versionRef", "name") == name)
