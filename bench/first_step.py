"""Seconds until the first step of a training, beside Ray Train started by hand in the same kind of pods.

    PYTHONPATH=tests:examples:operator python bench/first_step.py [--rounds N]

It needs a cluster (`make images`), and installs Driftloop there. In each round a FineTuneJob pretrains a tiny model on
two nodes. Then a Job of the same two pods, with the same image and resources, starts Ray with `ray start` and trains
the same model on the same prepared rows, sharded by FSDP2, in a script of thirty lines. Measured is from the creation
of the Job to the line of the first step in its log; of the FineTuneJob also from `kubectl apply`, with the stage that
prepares data and model, which the script has ready. Then another FineTuneJob loses its leading pod after a checkpoint,
and measured is from the start of the pod in its place to the first step there. Prints the medians, and the median of
the rounds' ratios.
"""

import argparse
import re
from datetime import UTC, datetime
from statistics import median

from cluster.interruptions import lose_pod
from cluster.lab import LONG, Lab, tiny_pools
from demo import install
from demo.kube import Kube, restricted_pod
from demo.reads import Obj
from demo.timeline import Timeline
from driftloop.controller.kinds.finetunejob.tasks import train_task_of

NAMESPACE, BY_HAND = "first-step", "by-hand"
FIRST = re.compile(r"\bstep \d+/\d+ loss")  # the first such line of a log; both kinds of pods write one per step
LEADING = "batch.kubernetes.io/job-completion-index=0"
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}
SCRIPT = """
import sys, time
import pyarrow.parquet as pq
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def train(config):
    import torch
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = pq.read_table(config["rows"], columns=["input_ids"]).column("input_ids")
    rank = ray.train.get_context().get_world_rank()
    for step in range(2):
        ids = torch.tensor([rows[(2 * step + rank) % len(rows)].as_py()])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            print(f"step {step + 1}/2 loss {loss.item():.4f}", flush=True)

ray.init(address="auto")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
scaling = ScalingConfig(num_workers=2, use_gpu=False)
TorchTrainer(train, train_loop_config={"model": sys.argv[1], "rows": sys.argv[2]}, scaling_config=scaling,
             run_config=RunConfig(storage_path="/tmp/ray-results")).fit()
"""
START = """
if [ "$JOB_COMPLETION_INDEX" = 0 ]; then
  python3 -m ray.scripts.scripts start --head --port=6379 --num-cpus=1 --include-dashboard=false >&2
  exec python3 /script/train.py "$@"
fi
until python3 -m ray.scripts.scripts start --address=by-hand-0.by-hand:6379 --num-cpus=1 --block >&2; do sleep 0.2; done
"""


def main() -> None:
    """Print one line per round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="trainings of each kind")
    rounds = parser.parse_args().rounds
    lab = prepared()
    seconds = [one_round(lab, number) for number in range(rounds)]
    names = ("from apply", "from the Job", "by hand", "from the pod after a lost head")
    for name, values in zip(names, zip(*seconds, strict=True), strict=True):
        print(f"{name}: {median(values):.1f} s ({min(values):.1f} to {max(values):.1f})")
    print(f"the Job / by hand: {median(own / hand for _, own, hand, _ in seconds):.2f}")
    lab.kube.run("delete", "namespace", NAMESPACE, "--wait=false")


def prepared() -> Lab:
    """A namespace with a corpus."""
    installed = install.install(Timeline(), "auto")
    install.namespace_with_claim(installed, NAMESPACE)
    install.put_data(installed, NAMESPACE, tiny_pools())
    return Lab(installed, NAMESPACE)


def one_round(lab: Lab, number: int) -> tuple[float, float, float, float]:
    """Seconds to the first step: from the apply of a FineTuneJob, from its Job, by hand, and after a lost head."""
    name = f"ours-{number}"
    applied = datetime.now(UTC)
    lab.pretrain(name, training={"maxSteps": 4})
    lab.phase(name, "Succeeded")
    first = first_step(lab.kube, f"driftloop.dev/job={name},driftloop.dev/stage=train")
    (job,) = lab.list("jobs", f"driftloop.dev/job={name},driftloop.dev/stage=train")
    from_apply, from_job = (first - applied).total_seconds(), (first - created(job)).total_seconds()
    seconds = from_apply, from_job, start_by_hand(lab, job), after_a_lost_head(lab, f"lost-{number}")
    print(
        "from apply {:.1f} s, from the Job {:.1f} s, by hand {:.1f} s, lost head {:.1f} s".format(*seconds), flush=True
    )
    return seconds


def after_a_lost_head(lab: Lab, name: str) -> float:
    """Seconds from the start of the pod that takes the place of a lost leading pod to its first step."""
    selector = f"driftloop.dev/job={name},driftloop.dev/stage=train"
    lab.pretrain(name, training=LONG)
    lab.checkpoint_beyond(name, 0)
    (lost,) = running(lab.kube, selector)
    lose_pod(lab, name, 0)

    def new_pod() -> Obj | None:
        pods = running(lab.kube, selector)
        return next((pod for pod in pods if pod["metadata"]["uid"] != lost["metadata"]["uid"]), None)

    pod: Obj = lab.kube.wait(f"the new leading pod of {name}", new_pod, 120)
    first = first_step(lab.kube, selector)
    lab.kube.run("delete", "finetunejob", name, "-n", NAMESPACE, "--timeout=120s")
    return (first - datetime.fromisoformat(pod["status"]["startTime"])).total_seconds()


def created(job: Obj) -> datetime:
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"])


def first_step(kube: Kube, selector: str) -> datetime:
    """When the leading pod logged its first step."""

    def line() -> str | None:
        names = [pod["metadata"]["name"] for pod in running(kube, selector)]
        logs = (kube.run("logs", "-n", NAMESPACE, name, "--timestamps") for name in names)
        return next((line for log in logs for line in log.splitlines() if FIRST.search(line)), None)

    return datetime.fromisoformat(kube.wait("the first step", line, 300).split(" ", 1)[0])


def running(kube: Kube, selector: str) -> list[Obj]:
    """The leading pods that run or have succeeded, without those that are being deleted."""
    pods = kube.list("pods", NAMESPACE, f"{selector},{LEADING}")
    there = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return [pod for pod in there if pod["status"]["phase"] in ("Running", "Succeeded")]


def start_by_hand(lab: Lab, ours: Obj) -> float:
    """Seconds from the Job to the first step of the script, on the rows and the model of the Job `ours`."""
    task = train_task_of(ours)
    assert task is not None
    assert task.model.uri is not None
    folders = [f"/volumes/{uri.removeprefix('pvc://')}" for uri in (task.model.uri, task.data_uri)]
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": BY_HAND},
            "data": {"train.py": SCRIPT, "start.sh": START},
        }
    )
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": BY_HAND},
            "spec": {"clusterIP": "None", "selector": {"job-name": BY_HAND}, "publishNotReadyAddresses": True},
        }
    )
    lab.apply(job_by_hand(lab, [folders[0], f"{folders[1]}/train.parquet"]))
    first = first_step(lab.kube, f"job-name={BY_HAND}")
    seconds = (first - created(lab.get("job", BY_HAND))).total_seconds()
    lab.kube.run("delete", "job", BY_HAND, "-n", NAMESPACE, "--timeout=60s")
    return seconds


def job_by_hand(lab: Lab, arguments: list[str]) -> Obj:
    """A Job of two pods like those of a training."""
    command = ["bash", "/script/start.sh", *arguments]
    pod = restricted_pod(BY_HAND, NAMESPACE, lab.installed.images["trainer"], command)["spec"]
    mounts = {"data": f"/volumes/{install.CLAIM}", "script": "/script", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
    pod["containers"][0] |= {
        "resources": RESOURCES,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    memory: Obj = {"emptyDir": {"medium": "Memory"}}
    pod |= {
        "restartPolicy": "Never",
        "subdomain": BY_HAND,
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": install.CLAIM}},
            {"name": "script", "configMap": {"name": BY_HAND}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", **memory},
        ],
    }
    spec: Obj = {
        "completions": 2,
        "parallelism": 2,
        "completionMode": "Indexed",
        "template": {"metadata": {"labels": {"app": BY_HAND}}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": BY_HAND}, "spec": spec}


if __name__ == "__main__":
    main()
