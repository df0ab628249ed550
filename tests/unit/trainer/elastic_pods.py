"""The pods of a training that loses a node and gets it back, for test_elastic.py: `elastic_pods.py FOLDER`.

It runs in a network namespace of its own, and each pod in a PID namespace of its own: killing a pod ends all that it
has started. FOLDER has the tasks elastic.json and plain.json, and below it are the volumes. Each worker writes the rows
of its steps to FOLDER/rows: see RECORDING.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 400  # that each part may take
PAUSE = 1.0  # seconds after each step: a node can be lost between two of them, and return before the last
ROWS = "rows"
DEATHS = ("load", "step", "checkpoint", "export")  # phases in each of which rank 1 dies once, of the task `phases`
# A module that Python imports at its start. It lets each worker record the rows of the steps that it has done, and die.
RECORDING = """
import importlib.abc, importlib.util, json, os, signal, sys, time, uuid

FOLDER, PAUSE, STARTS = os.environ["RECORD"], float(os.environ["PAUSE"]), os.environ["STARTS"]
DEATHS = os.environ["DEATHS"].split()
TARGET = "driftloop_trainer.train.worker.worker"


def dying(phase, function, when=lambda *_: True):
    def died(*arguments, **options):
        import torch.distributed as dist

        mark = f"{FOLDER}-died-{phase}"
        if phase in DEATHS and dist.get_rank() == 1 and when(*arguments) and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return died


def recording(train):
    file = os.path.join(FOLDER, uuid.uuid4().hex)

    def recorded(steps, step, work):
        loss = train(steps, step, work)
        rows = [int(index) for share in work.shares for index in share]
        start, ranks = len(os.listdir(STARTS)), steps.loop.mesh.data_size
        with open(file, "a") as output:
            print(json.dumps({"step": step, "start": start, "ranks": ranks, "rows": rows}), file=output)
        time.sleep(PAUSE)
        return loss

    return recorded


class Loader(importlib.abc.Loader):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, worker):
        self.loader.exec_module(worker)
        from driftloop_trainer.train.worker import loop, saver

        steps, writer = loop._Steps, saver._Writer
        worker.load_sharded = dying("load", worker.load_sharded)
        worker.export = dying("export", worker.export)
        writer.write_data = dying("checkpoint", writer.write_data)
        steps._train = recording(dying("step", steps._train, lambda _, step, __: step == 5))


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())
"""


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    """What all workers of a task have recorded so far. `start`: which start of the workers it was, from 1."""
    lines = [line for path in (folder / ROWS / name).glob("*") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def begin(folder: Path, name: str, index: int, pause: float) -> subprocess.Popen[bytes]:
    """Start the pod `index` of the task `name`."""
    task = json.loads((folder / f"{name}.json").read_text())
    (folder / ROWS / name).mkdir(parents=True, exist_ok=True)
    (folder / f"disk-{index}").mkdir(exist_ok=True)
    environment = os.environ | {
        "DRIFTLOOP_TASK": json.dumps(task),
        "DRIFTLOOP_TERMINATION_LOG": str(folder / f"{name}-{index}.result"),
        "DRIFTLOOP_VOLUMES": str(folder / "volumes"),
        "DRIFTLOOP_DISK": str(folder / f"disk-{index}"),
        "JOB_COMPLETION_INDEX": str(index),
        "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0",  # by default Ray's workers give way to all other processes of the machine
        "HOME": str(folder),  # where Ray would find a token of the user's
        "PYTHONPATH": os.pathsep.join([str(folder / "recording"), *filter(None, sys.path)]),
        "RECORD": str(folder / ROWS / name),
        "STARTS": str(folder / "volumes" / "claim" / "runs" / task["jobUid"] / "starts"),
        "PAUSE": str(pause),
        "DEATHS": " ".join(DEATHS) if name == "phases" else "",
    }
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (folder / f"{name}-{index}.log").open("ab") as log:
        command = [*alone, sys.executable, "-m", "driftloop_trainer.train"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def await_steps(folder: Path, ranks: int, count: int, after: int) -> int:
    """Wait until so many ranks have done `count` steps in a start later than `after`. Returns the last start."""

    def done() -> bool:
        found = [r for r in records(folder, "elastic") if r["ranks"] == ranks and r["start"] > after]
        return len({(r["start"], r["step"]) for r in found}) >= count

    _wait(f"{count} steps on {ranks} ranks", done)
    return max(int(r["start"]) for r in records(folder, "elastic"))


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {SECONDS} s: {what}")
        time.sleep(0.1)


def lose(pod: subprocess.Popen[bytes]) -> None:
    """Lose a node."""
    pod.send_signal(signal.SIGKILL)
    pod.wait()


def main(folder: Path) -> None:
    """Run the pods of the tasks in `folder`."""
    (folder / "recording").mkdir()
    (folder / "recording" / "sitecustomize.py").write_text(RECORDING)
    ends = [_elastic(folder)] if (folder / "elastic.json").exists() else []
    alone = [name for name in ("phases", "plain") if (folder / f"{name}.json").exists()]
    ends += [begin(folder, name, 0, pause=0.0).wait(SECONDS) for name in alone]
    sys.exit(max(ends))


def _elastic(folder: Path) -> int:
    """Lose the second of two nodes, get it back, and lose it again. Returns the exit code of the first."""
    head, other = (begin(folder, "elastic", index, PAUSE) for index in range(2))
    start = await_steps(folder, ranks=2, count=7, after=0)
    lose(other)
    start = await_steps(folder, ranks=1, count=2, after=start)
    other = begin(folder, "elastic", 1, PAUSE)
    start = await_steps(folder, ranks=2, count=2, after=start)
    lose(other)
    await_steps(folder, ranks=1, count=1, after=start)
    return head.wait(SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
