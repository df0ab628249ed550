"""The manifests of the demo, with the parallelism and the engine that were asked for."""

import argparse
import re
from copy import deepcopy
from itertools import count

import yaml
from pydantic import ValidationError

from demo.reads import Obj
from driftloop.api.finetunejob import Parallelism

# vLLM on nodes without GPUs. With bfloat16, its attention uses AMX without asking the kernel for it if no matrix is
# large enough for oneDNN to ask first, and is killed by SIGILL (not reported).
VLLM: Obj = {
    "type": "vllm",
    "dtype": "float32",
    "args": ["--enforce-eager"],  # compiling takes longer than such a small model gains
    "resources": {"requests": {"cpu": "200m", "memory": "2Gi"}, "limits": {"memory": "6Gi"}},
}
MOST_WORKERS = 16  # of a node (compute.workersPerNode), as the short form trains on a single one


def parallelism(text: str) -> Obj:
    """`compute.parallelism` from "pipeline=2" or "pipeline=2,tensor=2". Raises ArgumentTypeError with what to write."""
    known = [field.alias or name for name, field in Parallelism.model_fields.items()]
    found: Obj = {}
    for part in re.split(r"[ ,]+", text.strip()):
        axis, _, size = part.partition("=")
        if axis not in known or not size.isdigit():
            raise argparse.ArgumentTypeError(f"{part!r} is not AXIS=NUMBER with an axis of {', '.join(known)}")
        found[axis] = int(size)
    try:
        workers = _workers(Parallelism.model_validate(found))
    except ValidationError as error:
        (first, *_) = error.errors()
        raise argparse.ArgumentTypeError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if workers > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} needs {workers} workers, more than the {MOST_WORKERS} of a node")
    return found


def divided(manifests: str, axes: Obj) -> str:
    """The YAML documents with `axes` as the parallelism of every training, also of the service's retraining."""
    objects: list[Obj] = list(yaml.safe_load_all(manifests))
    return yaml.safe_dump_all([_divided(each, axes) for each in objects], sort_keys=False)


def on_vllm(manifests: str) -> str:
    """The YAML documents with vLLM as the engine of the service, by which its versions are also judged.

    The service has one replica, as each vLLM takes gigabytes. The image is the operator's (`images.vllm`).
    """
    objects: list[Obj] = list(yaml.safe_load_all(manifests))
    for each in objects:
        if each["kind"] == "InferenceService":
            each["spec"] |= {"engine": VLLM, "replicas": 1}
    return yaml.safe_dump_all(objects, sort_keys=False)


def _divided(manifest: Obj, axes: Obj) -> Obj:
    changed = deepcopy(manifest)
    spec = changed["spec"] if changed["kind"] == "FineTuneJob" else changed["spec"]["retraining"]["jobTemplate"]["spec"]
    nodes = spec["compute"]["nodes"]
    workers = workers_per_node(nodes, Parallelism.model_validate(axes))
    spec["compute"] |= {"parallelism": axes, "workersPerNode": workers}
    return changed


def workers_per_node(nodes: int, axes: Parallelism) -> int:
    """The fewest workers per node that `axes` divide."""
    return next(found for found in count(axes.tensor, axes.tensor) if nodes * found % _workers(axes) == 0)


def _workers(axes: Parallelism) -> int:
    """The workers that have the model once, or once per replica."""
    return axes.pipeline * axes.data_replicate * axes.context * axes.tensor
