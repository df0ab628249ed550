"""Interrupted training: by a lost worker, a lost head and a suspension, one after the other; and by a lost node."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from cluster.lab import LONG, Lab, nodes_without_operator, only_on
from testcluster import wait


@dataclass(frozen=True)
class Interruption:
    """`seen`: the steps of the last whole checkpoint before it. `resumed`: the step from which training went on."""

    seen: int
    resumed: int


def lose_pod(lab: Lab, name: str, index: int) -> None:
    """Kill the running train pod of an index; 0 is Ray's head."""
    pods = lab.list("pods", f"driftloop.dev/job={name},batch.kubernetes.io/job-completion-index={index}")
    victim = next(p for p in pods if p["status"]["phase"] == "Running")["metadata"]["name"]
    lab.kube.run("delete", "pod", victim, "-n", lab.namespace, "--grace-period=0", "--force", "--wait=false")


def suspend_and_resume(lab: Lab, name: str) -> None:
    """Suspend the job until no pod of it is left, then let it go on."""
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


MAIN = "a lost worker"  # what every run interrupts a training with


def interrupt(lab: Lab, name: str, by: Collection[str]) -> dict[str, Interruption]:
    """Interrupt a training once by each of INTERRUPTS that is named, each time after one more checkpoint."""
    found: dict[str, Interruption] = {}
    for what in by:
        seen = lab.checkpoint_beyond(name, max((each.seen for each in found.values()), default=0))
        before = len(lab.starts(name))
        INTERRUPTS[what](lab, name)
        found[what] = Interruption(seen, _next_start(lab, name, before, what))
    return found


def _next_start(lab: Lab, name: str, before: int, what: str) -> int:
    def started() -> list[int] | None:
        starts = list(lab.starts(name, before))
        return starts if len(starts) > before else None

    starts: list[int] = lab.kube.wait(f"{name} to go on after {what}", started, 400, tell=lambda: lab.story(name))
    return starts[-1]


@dataclass
class NodeLoss:
    """A job of one node, which is lost. `first`: the version of the job of that name before. `seen` as above."""

    lab: Lab
    node: str
    first: str
    seen: int
    lost: bool = True

    def heal(self) -> None:
        """Bring the node back."""
        if self.lost:
            self.lost = False
            self.lab.installed.provider.heal_node(self.node)
            self.lab.kube.run("wait", f"node/{self.node}", "--for=condition=Ready", "--timeout=120s", timeout=130)
            self.lab.kube.run("uncordon", self.node)


def lose_node(lab: Lab, name: str) -> NodeLoss:
    """Create a job again, on a node that has neither the operator nor the pod through which tests look, and lose it.

    The node is cordoned too: for most of a minute more pods would be sent to it, as it is not missed so soon.
    """
    node = nodes_without_operator(lab.kube)[0]
    first = lab.get("finetunejob", name)["status"]["version"]
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)
    with only_on(lab.kube, node):
        lab.pretrain(name, training=LONG, compute={"nodes": 1})
        seen = lab.checkpoint_beyond(name, 40)
    assert list(lab.starts(name)) == [0], "it went on from the checkpoint of a job that was deleted"
    lab.installed.provider.fail_node(node)
    lab.kube.run("cordon", node)
    return NodeLoss(lab, node, first, seen)
