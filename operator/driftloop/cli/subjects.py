"""What can be waited for: a job, a version, a service, and a job together with its version."""

import shlex
from dataclasses import dataclass
from time import monotonic
from typing import Any

from driftloop.cli import states
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import Exit
from driftloop.cli.follow import Ending, Subject, follow
from driftloop.cli.program import program
from driftloop.cli.states import State, VersionGoal
from driftloop.controller.vocabulary.labels import SERVICE
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj

JOB, VERSION, INFERENCE_SERVICE = "FineTuneJob", "ModelVersion", "InferenceService"


@dataclass(frozen=True)
class Result:
    """How a wait ended, and the objects that it saw."""

    ending: Ending
    objects: tuple[Obj, ...] = ()

    def document(self) -> dict[str, Any]:
        """The result for JSON output."""
        return {
            "result": self.ending.exit.name.lower(),
            "exitCode": int(self.ending.exit),
            "message": self.ending.message,
            "objects": [summary(obj) for obj in self.objects],
        }

    @property
    def version(self) -> str | None:
        """Name of the version, if it is known."""
        for obj in self.objects:
            if obj["kind"] == VERSION:
                return str(obj["metadata"]["name"])
        return next((field(obj, "status", "version") for obj in self.objects if obj["kind"] == JOB), None)


def summary(obj: Obj) -> dict[str, Any]:
    """What identifies an object, and its status."""
    metadata = obj["metadata"]
    return {
        "kind": obj["kind"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "status": obj.get("status") or {},
    }


async def wait_for_job(cluster: Cluster, name: str, seconds: float, resume: str | None = None) -> Result:
    """Wait until a job has its version."""

    async def state_of(obj: Obj | None) -> State:
        return states.job_state(obj)

    resume = resume or command(cluster, "job", name)
    return _result(await follow(cluster, Subject(JOB, name, state_of, resume), seconds))


async def wait_for_version(
    cluster: Cluster, name: str, goal: VersionGoal, seconds: float, resume: str | None = None
) -> Result:
    """Wait until a version is approved, or with the goal `judged` until it is judged."""

    async def state_of(obj: Obj | None) -> State:
        return states.version_state(obj, goal)

    resume = resume or command(cluster, "version", name, f"--for={goal}")
    return _result(await follow(cluster, Subject(VERSION, name, state_of, resume), seconds))


async def wait_for_judgement(cluster: Cluster, job: str, seconds: float) -> Result:
    """Wait until a job has its version, and the version is judged."""
    end, resume = monotonic() + seconds, command(cluster, "job", job, "--for=judged")
    trained = await wait_for_job(cluster, job, seconds, resume)
    if trained.ending.exit != Exit.DONE or trained.version is None:
        return trained
    judged = await wait_for_version(cluster, trained.version, "judged", max(1.0, end - monotonic()), resume)
    return Result(judged.ending, (*trained.objects, *judged.objects))


async def wait_for_readiness(cluster: Cluster, name: str, seconds: float) -> Result:
    """Wait until a service serves what its spec asks for."""

    async def state_of(obj: Obj | None) -> State:
        return states.ready_state(obj)

    return _result(
        await follow(cluster, Subject(INFERENCE_SERVICE, name, state_of, command(cluster, "service", name)), seconds)
    )


async def wait_for_promotion(cluster: Cluster, name: str, version: str, seconds: float) -> Result:
    """Wait until a service has promoted a version, or rolled it back."""

    async def state_of(obj: Obj | None) -> State:
        records = await cluster.deployments(f"{SERVICE}={name}") if obj else []
        return states.promotion_state(obj, version, states.rollbacks(records))

    resume = command(cluster, "service", name, f"--version={version}")
    return _result(await follow(cluster, Subject(INFERENCE_SERVICE, name, state_of, resume), seconds))


def command(cluster: Cluster, kind: str, name: str, *options: str) -> str:
    """The command that waits for an object."""
    context = [f"--context={cluster.where.context}"] if cluster.where.context else []
    return shlex.join([*program().split(), "wait", kind, name, *options, "-n", cluster.namespace, *context])


def _result(ending: Ending) -> Result:
    return Result(ending, (ending.object,) if ending.object else ())
