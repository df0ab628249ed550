"""The start of a pod whose version is an adapter alone: merged onto its base, or brought beside it.

`PYTHONPATH=operator:server_image python bench/fetch_adapter.py [--matrices N] [--width N] [--rounds N]`

A base in bfloat16 on a claim, and an adapter of rank 16 on each of its matrices. Each round is a process of its own per
way, in turn. Printed: the medians of its CPU seconds, imports included, and of its memory.
  merged: as without engine.adapters
  beside: with engine.adapters
"""

import argparse
import json
import os
import resource
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from driftloop.api.engine import EngineAdapters
from driftloop.contract.task import ServeTask

WAYS: dict[str, EngineAdapters | None] = {"merged": None, "beside": EngineAdapters()}


def publish_version(volumes: Path, matrices: int, width: int) -> None:
    """The base and the adapter; the adapter's digest is in a file beside them."""
    import torch
    from safetensors.torch import save_file

    from driftloop.contract.manifest import ManifestEntry
    from driftloop.contract.modelfolder import AdaptedWeight, AdapterBase
    from driftloop.podlib.storage import publish

    base, adapter = volumes / "claim" / "base", volumes / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    weights = {f"layers.{n}.weight": torch.randn(width, width).to(torch.bfloat16) for n in range(matrices)}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    shapes = {"lora_A": (16, width), "lora_B": (width, 16)}
    small = {
        f"base_model.model.layers.{n}.{name}.weight": torch.randn(shape)
        for n in range(matrices)
        for name, shape in shapes.items()
    }
    save_file(small, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    known = AdapterBase(
        uri="pvc://claim/base",
        files=[ManifestEntry.of(base / "model.safetensors", "model.safetensors")],
        dtype="bfloat16",
        scaling=2.0,
        weights={name: AdaptedWeight(module=name.removesuffix(".weight")) for name in weights},
    )
    (adapter / "adapter_base.json").write_text(known.model_dump_json(by_alias=True))
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 16}))
    (adapter / "config.json").write_text("{}")
    (volumes / "digest").write_text(publish(adapter, "pvc://claim/version").digest)


def costs(volumes: Path, way: str) -> tuple[float, int]:
    """CPU seconds and bytes of memory of this process, which fetches the version."""
    from driftloop_server.fetch import fetch

    with TemporaryDirectory(dir=volumes) as model:
        task = ServeTask(
            namespace="bench",
            service="bench",
            service_uid="bench",
            family="bench",
            version="bench",
            revision="bench",
            artefact_uri="pvc://claim/version",
            artefact_digest=(volumes / "digest").read_text(),
            artefact_bases=("pvc://claim/base",),
            model_dir=model,
            adapters=WAYS[way],
        )
        fetch(task)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=48)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = get_context("spawn")
    with TemporaryDirectory() as name:
        os.environ["DRIFTLOOP_VOLUMES"] = name
        maker = context.Process(target=publish_version, args=(Path(name), options.matrices, options.width))
        maker.start()
        maker.join()
        found: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, known in found.items():
                with context.Pool(1) as process:
                    known.append(process.apply(costs, (Path(name), way)))
    size = options.matrices * options.width**2 * 2 / 1e6
    for way, known in found.items():
        seconds, memory = (median(values) for values in zip(*known, strict=True))
        print(f"{way}: {seconds:.2f} s of CPU, {memory / 2**20:.0f} MiB, for a base of {size:.0f} MB")


if __name__ == "__main__":
    main()
