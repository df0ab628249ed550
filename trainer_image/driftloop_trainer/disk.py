"""The pod's volume on its node's disk, for what is too large for memory: /tmp of a pod counts as its memory."""

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftloop.contract.names import DISK_DIR, DISK_ENV, DISK_LIMIT_ENV, EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk() -> Path:
    """The folder of the volume. In a pod without it, of an earlier release, and outside of pods: that of `tempfile`."""
    volume = Path(os.environ.get(DISK_ENV, DISK_DIR))
    return volume if volume.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def room(folder: Path, needed: int, what: str) -> Iterator[None]:
    """The block writes `needed` bytes of `what` below `folder`. Raises StageFailure if they don't fit.

    Another writer may take the room meanwhile, so an error of the block that comes from a full disk counts, too.
    """
    if (limit := int(os.environ.get(DISK_LIMIT_ENV) or 0)) and needed > limit:
        raise StageFailure(
            StageReason.DISK_FULL,
            f"{what} need {_gib(needed)} on the disk of the node, and the pod may have {_gib(limit)} there: raise "
            "ephemeral-storage in compute.resources.limits",
            EXIT_RETRY,
        )
    if shutil.disk_usage(folder).free < needed:
        raise _too_full(folder, needed, what)
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise _too_full(folder, needed, what) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_full(folder: Path, needed: int, what: str) -> StageFailure:
    free, volume = shutil.disk_usage(folder).free, folder
    while not volume.is_mount():
        volume = volume.parent
    return StageFailure(
        StageReason.DISK_FULL,
        f"{what} need {_gib(needed)} on the disk of the node, and {_gib(free)} are free in {volume} of "
        f"{socket.gethostname()} (the pod's volume `disk`): set ephemeral-storage in compute.resources.requests, so "
        "that the pods run on nodes with that much disk, or free the nodes' disks",
        EXIT_RETRY,
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
