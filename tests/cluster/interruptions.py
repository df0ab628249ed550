"""Interruptions of a training: by a lost worker, a lost head, a suspension, and a lost node."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from cluster.lab import LONG, Lab, nodes_without_operator, only_on
from testcluster import wait


@dataclass(frozen=True)
class Interruption:
    """`seen`: the step of the last complete checkpoint before it. `resumed`: the step at which training resumed."""

    seen: int
    resumed: int


def lose_pod(lab: Lab, name: str, index: int) -> None:
    """Kill the running train pod with this index. Index 0 is Ray's head."""
    pods = lab.list("pods", f"driftloop.dev/job={name},batch.kubernetes.io/job-completion-index={index}")
    victim = next(p for p in pods if p["status"]["phase"] == "Running")["metadata"]["name"]
    lab.kube.run("delete", "pod", victim, "-n", lab.namespace, "--grace-period=0", "--force", "--wait=false")


def suspend_and_resume(lab: Lab, name: str) -> None:
    """Suspend the job until all its pods are gone, then resume it."""
    patch = ("patch", "finetunejob", name, "-n", lab.namespace, "--type=merge", "-p")
    lab.kube.run(*patch, '{"spec":{"suspend":true}}')
    lab.phase(name, "Suspended")
    wait.until(lambda: not lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=train"), "pods gone", 90)
    lab.kube.run(*patch, '{"spec":{"suspend":false}}')


INTERRUPTS: Mapping[str, Callable[[Lab, str], None]] = {
    "a lost worker": partial(lose_pod, index=1),
    "a lost head": partial(lose_pod, index=0),
    "a suspension": suspend_and_resume,
}


MAIN = "a lost worker"  # the interruption in every test run


def interrupt(lab: Lab, name: str, by: Collection[str]) -> dict[str, Interruption]:
    """Interrupt a training once by each of the named INTERRUPTS, each time after another checkpoint."""
    done: dict[str, Interruption] = {}
    for what in by:
        seen = lab.checkpoint_beyond(name, max((interruption.seen for interruption in done.values()), default=0))
        before = len(lab.starts(name))
        INTERRUPTS[what](lab, name)
        done[what] = Interruption(seen, _next_start(lab, name, before, what))
    return done


def _next_start(lab: Lab, name: str, before: int, what: str) -> int:
    def started() -> list[int] | None:
        starts = list(lab.starts(name, before))
        return starts if len(starts) > before else None

    starts: list[int] = lab.kube.wait(f"{name} to resume after {what}", started, 400, tell=lambda: lab.story(name))
    return starts[-1]


@dataclass
class NodeLoss:
    """The loss of the node of a job with one node.

    `first`: the version of the previous job with the same name. `seen`: the step of the last complete checkpoint.
    """

    lab: Lab
    node: str
    first: str
    seen: int
    lost: bool = True

    def heal(self) -> None:
        """Bring the node back."""
        if self.lost:
            self.lost = False
            heal(self.lab, self.node)


def heal(lab: Lab, node: str) -> None:
    """Bring a lost node back."""
    lab.installed.provider.heal_node(node)
    lab.kube.run("wait", f"node/{node}", "--for=condition=Ready", "--timeout=120s", timeout=130)
    lab.kube.run("uncordon", node)


def lose_node(lab: Lab, name: str) -> NodeLoss:
    """Delete and create a job again, on a node without the operator and the writer's pod, and lose that node.

    The node is also cordoned, as Kubernetes would schedule pods on it until it detects the loss after about a minute.
    """
    node = nodes_without_operator(lab.kube)[0]
    first = lab.get("finetunejob", name)["status"]["version"]
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)
    with only_on(lab.kube, node):
        lab.pretrain(name, training=LONG, compute={"nodes": 1})
        seen = lab.checkpoint_beyond(name, 40)
    assert list(lab.starts(name)) == [0], "the job resumed from the checkpoint of a deleted job"
    lab.installed.provider.fail_node(node)
    lab.kube.run("cordon", node)
    return NodeLoss(lab, node, first, seen)
