"""What torch compiles with: the C++ compiler of the image."""

import logging
import os
import shutil

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

log = logging.getLogger(__name__)

_COMPILERS = ("g++", "c++", "clang++")


def has_compiler() -> bool:
    """Whether the image has a C++ compiler. Where it is, there is a C compiler, with which Triton starts kernels."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS))


def check_compiler(training: TrainingSpec) -> None:
    """Refuse a training that must be compiled and can't be. Raises StageFailure."""
    if training.float8 and not has_compiler():
        raise StageFailure(
            StageReason.FLOAT8_UNSUPPORTED,
            "training.float8 is true, which is slower than bfloat16 unless it is compiled, but this image has no C++ "
            "compiler: remove training.float8, or install g++ in the trainer image",
        )
    if training.compile and not has_compiler():
        raise StageFailure(
            StageReason.COMPILE_UNSUPPORTED,
            "training.compile is true, but this image has no C++ compiler: remove training.compile, or install g++ in "
            "the trainer image",
        )


def compiles(training: TrainingSpec) -> bool:
    """Whether to compile. Without a compiler it is reported in the log, and the model is trained as it is."""
    if training.compile and not has_compiler():
        log.warning("the layers are not compiled, as this image has no C++ compiler")
        return False
    return bool(training.compile)
