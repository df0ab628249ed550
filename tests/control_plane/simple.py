"""An operator with deciders of a few lines, run as a process, to test the runtime without the rules of the kinds.

    python tests/control_plane/simple.py --kubeconfig FILE ...

For a FineTuneJob it creates a Service, whose name and port are in the annotations `service` and `port`, and a Job, and
writes a status with a phase.
"""

import asyncio
import os
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from pydantic import Field

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobSpec, FineTuneJobStatus, TrainingSpec
from driftloop.api.inferenceservice import InferenceService, InferenceServiceStatus
from driftloop.api.modelversion import ModelVersion, ModelVersionStatus
from driftloop.controller.process.operator import Operator
from driftloop.controller.process.options import add_arguments, options
from driftloop.controller.runtime import logs
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.kind import Kind
from driftloop.controller.vocabulary.labels import JOB, STAGE
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.plan import Apply, Create, Event, Key, Obj, Plan, Settings
from driftloop.controller.vocabulary.world import Lookup, World


class StrictTraining(TrainingSpec):
    """Refuses values that the CRD accepts, as a newer operator may refuse an older object."""

    seed: int = Field(0, le=1000)


class StrictSpec(FineTuneJobSpec):
    """The spec with StrictTraining."""

    training: StrictTraining = StrictTraining()


class StrictJob(FineTuneJob):
    """The kind with StrictSpec."""

    spec: StrictSpec


def nobody(changed: Obj, objects: Lookup) -> tuple[Key, ...]:
    """A changed object concerns only its owners."""
    return ()


async def observe(key: Key, world: World) -> Any:
    """The object and its Jobs."""
    obj = world.get(*key)
    if obj is None:
        return None
    return obj, world.owned("Job", key.namespace, obj["metadata"]["uid"])


def decide(observed: Any, settings: Settings, now: datetime) -> Plan:
    """Create a Service and a Job, and report the Job's state in the status."""
    obj, jobs = observed
    done = any(entry["type"] == "Complete" for job in jobs for entry in (job.get("status") or {}).get("conditions", []))
    found = conditions.ready("Done", "done") if done else conditions.progressing("Working", "working")
    metadata, old = obj["metadata"], obj.get("status") or {}
    status = {
        "observedGeneration": metadata["generation"],
        "phase": "Succeeded" if done else "Training",
        "conditions": conditions.merge(old.get("conditions") or [], found, metadata["generation"], now),
    }
    events = (Event("Normal", "Done", "the job is done"),) if done else ()
    return Plan(actions=(Apply(service(obj)), Create(job(obj, settings))), status=status, events=events)


def settled(observed: Any, settings: Settings, now: datetime) -> Plan:
    """Only record the observed generation."""
    obj, _ = observed
    return Plan(status=(obj.get("status") or {}) | {"observedGeneration": obj["metadata"]["generation"]})


def service(obj: Obj) -> Obj:
    """The Service of an object."""
    notes = obj["metadata"].get("annotations") or {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(obj, notes.get("service") or child_name(obj, "web")),
        "spec": {
            "selector": {JOB: obj["metadata"]["name"]},
            "ports": [{"name": "http", "port": int(notes.get("port", "80")), "targetPort": 8080}],
        },
    }


def job(obj: Obj, settings: Settings) -> Obj:
    """The Job of an object."""
    labels = {JOB: obj["metadata"]["name"], STAGE: "train"}
    container = {
        "name": "main",
        "image": settings.trainer_image,
        "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(obj, child_name(obj, "train")),
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def _metadata(obj: Obj, name: str) -> Obj:
    return {
        "name": name,
        "namespace": obj["metadata"]["namespace"],
        "labels": {JOB: obj["metadata"]["name"]},
        "ownerReferences": [owner_reference(obj)],
    }


KINDS = {
    "FineTuneJob": Kind(StrictJob, FineTuneJobStatus, observe, decide, nobody),
    "ModelVersion": Kind(ModelVersion, ModelVersionStatus, observe, settled, nobody),
    "InferenceService": Kind(InferenceService, InferenceServiceStatus, observe, settled, nobody),
}


def main() -> None:
    """Run the operator. CRASH_AFTER=N ends the process right after its N-th write, like a crash."""
    parser = ArgumentParser()
    add_arguments(parser)
    found = options(parser.parse_args())
    logs.configure(found.log_level)
    if after := int(os.environ.get("CRASH_AFTER", "0")):
        _crash_after(after)
    asyncio.run(Operator(found, KINDS).run())


def _crash_after(writes: int) -> None:
    from driftloop.controller.runtime.kube.api import Api

    request, count = Api._request, 0

    async def counted(self: Api, verb: str, path: str, *rest: Any, **more: Any) -> Obj:
        nonlocal count
        answer = await request(self, verb, path, *rest, **more)
        count += verb != "GET" and "/leases" not in path
        if count >= writes:
            os._exit(9)
        return answer

    Api._request = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
