"""The stages of a job on this machine, without a cluster: prepare, plan, train, kill and resume, serve.

    PYTHONPATH=tests:examples:operator:trainer_image:server_image python bench/stages.py [--gpus N] [--model 110m]

Each stage runs the pod's command in its own PID namespace (`unshare`, as root), so that all its processes end with it,
like in a container. Ray Train uses NCCL on GPUs and gloo without. For a new model pretrained on the generated corpus,
prints tokens per second; the GPU memory and the plan's estimate; the loss and the CPU's loss, from the same rows in the
same order (--compare); the step at which a killed training resumed; and the engine's tokens per second. A loss is the
mean of the last 20 steps, so losses after a kill can be compared only if at least 20 steps followed it.
"""

import argparse
import asyncio
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from serving import SIZES, Request, round_of, serve_task

from demo.pools import generated
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import PrepareResult, TrainResult, decode
from driftloop.contract.task import ModelSource, PrepareTask, ServeTask, TrainTask, encode
from driftloop.controller.kinds.finetunejob import tasks
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.stages import Stages
from driftloop.controller.kinds.finetunejob.start import HeldOut, Start
from driftloop.controller.vocabulary.plan import Settings
from unit.server.processes import answers, wait_for

SETTINGS = Settings(trainer_image="", server_image="")
LLAMA = {"model_type": "llama", "max_position_embeddings": 2048, "tie_word_embeddings": True}
MODELS: dict[str, dict[str, Any]] = {
    "demo": SIZES,
    "110m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
MIB = 1 << 20
LIMIT = 400  # seconds per stage


def main() -> None:
    """Run all stages once and print the measurements."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="stages-") as name:
        bench = Bench(Path(name), options)
        bench.write_corpus()
        prepared = bench.prepare()
        if options.compare:
            bench.compare(prepared)
        result = bench.train(prepared, "whole", bench.spec(options.gpus))
        bench.resume(prepared)
        bench.serve(result)


class Bench:
    """One run. `folder` has the folder `bench` of pvc://bench."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        (folder / "bench").mkdir()

    def spec(self, gpus: int, **training: Any) -> FineTuneJobSpec:
        """The job's spec, like from a user."""
        options = self.options
        architecture = LLAMA | MODELS[options.model]
        fields = {"method": "pretrain", "maxLength": options.length, "packing": True, "maxSteps": options.steps}
        fields |= {"trainBatchSize": options.batch, "perDeviceTrainBatchSize": options.batch, "learningRate": 3e-4}
        fields |= {"bf16": gpus > 0, "saveSteps": 10_000}
        document = {
            "model": {"from": {"config": {"architecture": architecture, "tokenizer": {"vocabSize": 4096}}}},
            "data": {"sources": [{"name": "corpus", "uri": "pvc://bench/corpus.csv", "columns": {"text": "text"}}]},
            "training": fields | training,
            "compute": {"nodes": 1, "gpusPerNode": gpus},
            "storage": "pvc://bench/store",
            "output": {"family": "bench"},
        }
        return FineTuneJobSpec.model_validate(document)

    def write_corpus(self) -> None:
        """Write the texts of the generated corpus. Training packs several into a sequence."""
        texts = [row.text for row in generated(self.options.rows).training]
        with (self.folder / "bench" / "corpus.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["text"], *([text] for text in texts)])

    def prepare(self) -> PrepareResult:
        """Run prepare, which creates the model and tokenises the corpus."""
        began = time.monotonic()
        result = self._stage("prepare", self._prepare_task())
        assert isinstance(result, PrepareResult)
        print(
            f"prepare: {time.monotonic() - began:.1f} s, {result.model.parameters / 1e6:.1f}M parameters,"
            f" {result.sequences} sequences, {result.tokens} tokens"
        )
        return result

    def compare(self, prepared: PrepareResult) -> None:
        """Compare the losses of the same few steps in float32 on the CPU and on the GPUs."""
        losses = {}
        for gpus in (0, self.options.gpus):
            spec = self.spec(gpus, bf16=False, maxSteps=self.options.compare, trainBatchSize=8)
            losses[gpus] = self.train(prepared, f"compare-{gpus}", spec).loss
        cpu, gpu = losses[0], losses[self.options.gpus]
        print(
            f"compare: loss {cpu:.6f} on the CPU, {gpu:.6f} on {self.options.gpus} GPU:"
            f" relative difference {abs(gpu / cpu - 1):.1e}"
        )

    def train(self, prepared: PrepareResult, name: str, spec: FineTuneJobSpec) -> TrainResult:
        """Run a training without interruption."""
        task, planned = self._planned(prepared, name, spec)
        began = time.monotonic()
        with gpu_memory() as used:
            result = self._stage("train", task)
        assert isinstance(result, TrainResult)
        estimate = planned.status.memory_bytes_per_worker
        print(
            f"train {name}: {time.monotonic() - began:.1f} s of which {result.seconds} in steps,"
            f" {result.tokens_per_second:.0f} tokens/s, loss {result.loss:.4f} after {result.steps} steps;"
            f" GPU memory {used.peak // MIB} MiB, planned {estimate['total'] // MIB} MiB"
            f" ({', '.join(f'{part} {size // MIB}' for part, size in estimate.items() if part != 'total')})"
        )
        return result

    def resume(self, prepared: PrepareResult) -> None:
        """Kill a training after its second checkpoint, and start it again."""
        every = max(1, self.options.steps // 5)
        task, _ = self._planned(prepared, "killed", self.spec(self.options.gpus, saveSteps=every))
        process = self._start("train", task)
        runs = self.folder / "bench" / "store" / "runs" / "killed"
        wait_for(lambda: len(list(runs.glob("step-*/complete.json"))) > 1 or process.poll() is not None, LIMIT)
        ended = process.poll() is not None
        _kill(process)
        result = self._stage("train", task)
        assert isinstance(result, TrainResult)
        print(
            f"killed {'at its end' if ended else f'after step {2 * every}'}:"
            f" resumed at step {result.resumed_from_step} and ran to {result.steps}, loss {result.loss:.4f}"
        )

    def serve(self, trained: TrainResult) -> None:
        """Run the engine with the trained model, with growing numbers of completions of 64 tokens at a time."""
        model = self.folder / "model"
        shutil.copytree(self.folder / trained.uri.removeprefix("pvc://"), model)
        task = serve_task(trained.uri, trained.digest, model, max_num_seqs=256)
        began = time.monotonic()
        process = self._start("driftloop_server.engine", task)
        base = f"http://127.0.0.1:{task.engine_port}"
        try:
            wait_for(lambda: answers(f"{base}/v1/models") or process.poll() is not None, LIMIT)
            if process.poll() is not None:
                self._fail("engine", process.returncode)
            print(f"engine: ready after {time.monotonic() - began:.1f} s")
            for clients in (1, 16, 64, 256):
                figures = asyncio.run(round_of(base, clients, 4 * clients, 64, completion))
                print(f"engine: {clients} at a time: {figures.tokens:.0f} tokens/s")
        finally:
            _kill(process)

    def _prepare_task(self) -> PrepareTask:
        spec = self.spec(self.options.gpus)
        start = Start(ModelSource(new=spec.model.from_.config), HeldOut("bench", 10))
        return tasks.prepare_task(_observed("bench", spec), start)

    def _planned(self, data: PrepareResult, name: str, spec: FineTuneJobSpec) -> tuple[TrainTask, TrainingPlan]:
        planned = plan(spec, data)
        if isinstance(planned, Refusal):
            sys.exit(f"error: {planned.message}")
        observed, prepared = _observed(name, spec), tasks.Prepared(self._prepare_task(), data)
        lineage = tasks.lineage(observed, prepared, "bench")
        stages = Stages(observed, SETTINGS, datetime.now(UTC), attempt=0)
        return tasks.train_task(stages, prepared, planned, lineage), planned

    def _stage(self, name: str, task: PrepareTask | TrainTask) -> Any:
        process = self._start(name, task)
        try:
            code = process.wait(LIMIT)
        finally:
            _kill(process)
        if code:
            self._fail(name, code)
        return decode((self.folder / "result").read_text())

    def _fail(self, name: str, code: int) -> NoReturn:
        print((self.folder / "log").read_text()[-6000:])
        result = self.folder / "result"
        sys.exit(f"error: {name} exited with status {code}: {result.read_text() if result.exists() else ''}")

    def _start(self, name: str, task: PrepareTask | TrainTask | ServeTask) -> subprocess.Popen[bytes]:
        module = name if "." in name else f"driftloop_trainer.{name}"
        (self.folder / "task.json").write_text(encode(task))
        environment = os.environ | {
            "DRIFTLOOP_TASK_FILE": str(self.folder / "task.json"),
            "DRIFTLOOP_VOLUMES": str(self.folder),
            "DRIFTLOOP_DISK": str(self.folder),
            "DRIFTLOOP_TERMINATION_LOG": str(self.folder / "result"),
            "RAY_TMPDIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - the command is ours
                [*alone, sys.executable, "-m", module], env=environment, stdout=log, stderr=subprocess.STDOUT
            )


def _observed(name: str, spec: FineTuneJobSpec) -> Observed:
    """A job in the form that the operator observes."""
    return Observed({"metadata": {"name": name, "namespace": "bench", "uid": name}}, spec)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # with --kill-child this also kills its whole namespace
    process.wait()


@contextmanager
def gpu_memory() -> Iterator[Any]:
    """Measures `peak`: the maximal increase of the memory in use on the first GPU, in bytes, four times per second."""
    result, ended = SimpleNamespace(peak=0), threading.Event()
    first = _used()

    def look() -> None:
        while not ended.wait(0.25):
            result.peak = max(result.peak, _used() - first)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        ended.set()
        thread.join()


def _used() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - ours
    return int(output) * MIB


def completion(number: int) -> Request:
    """A completion request with a prompt like in the corpus."""
    return "completions", {"prompt": f"my order {number} has"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs; 0: train on the CPU")
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--rows", type=int, default=200, help="rows per intent in the corpus")
    parser.add_argument("--length", type=int, default=64, help="tokens per sequence")
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compare", type=int, default=0, metavar="STEPS", help="compare with the CPU after STEPS")
    return parser


if __name__ == "__main__":
    main()
