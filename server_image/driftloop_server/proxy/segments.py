"""Stores feedback rows as lines of `version/pod/sequence.jsonl`. Rows are durable before they are acknowledged.

Each pod writes its own files, so there are no concurrent writers. If a pod dies while it writes, the last line of its
file may be incomplete; that row was not acknowledged.
"""

import asyncio
import json
import logging
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from driftloop.contract.uris import join
from driftloop.podlib.storage import StorageError, local_path, write_text

log = logging.getLogger(__name__)

MAX_ROWS = 1000  # per segment
MAX_SECONDS = 60.0  # after which a new segment is started
_ATTEMPTS = 1000  # to find a free name

Row = dict[str, Any]


class Segment(Protocol):
    """One file being written."""

    def append(self, lines: bytes) -> None:
        """Write lines and return when they are durable. Raises OSError or StorageError."""

    def close(self) -> None: ...


class LocalSegment:
    """A file on a mounted volume."""

    def __init__(self, path: Path) -> None:
        changed = [path.parent, *(folder.parent for folder in path.parents if not folder.exists())]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        for folder in changed:  # makes the names of the file and of new folders durable too
            _sync(folder)

    def append(self, lines: bytes) -> None:
        while lines:
            lines = lines[os.write(self._file, lines) :]
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteSegment:
    """An object in a store. Objects can't be appended to, so each time the whole segment is written again."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._content = ""

    def append(self, lines: bytes) -> None:
        content = self._content + lines.decode()
        write_text(self._uri, content)
        self._content = content

    def close(self) -> None:
        pass


@dataclass
class _Open:
    """A segment, with its age and number of rows, which decide when to start a new one."""

    segment: Segment
    opened: float
    rows: int = 0


@dataclass
class _Batch:
    """Rows that are written together, with one sync: all rows that arrived during the previous write."""

    lines: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))  # by version
    written: bool = False
    error: Exception | None = None


class Segments:
    """Appends rows below `uri`, the service's folder. One instance per pod."""

    def __init__(self, uri: str, pod: str) -> None:
        self._uri = uri
        self._pod = pod
        self._open: dict[str, _Open] = {}  # by version
        self._batch = _Batch()
        self._lock = asyncio.Lock()
        self._sequence = 0

    async def append(self, version: str, row: Row) -> None:
        """Store a row and return when it is durable. Raises OSError or StorageError if it isn't stored."""
        batch = self._batch
        batch.lines[version].append(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        async with self._lock:
            if not batch.written:
                self._batch, batch.written = _Batch(), True
                try:
                    await asyncio.to_thread(self._write, batch)
                except Exception as error:
                    batch.error = error
        if batch.error is not None:
            raise batch.error

    def _write(self, batch: _Batch) -> None:
        for version, lines in batch.lines.items():
            current = self._segment(version)
            try:
                current.segment.append(b"".join(lines))
            except Exception:
                # The file may end with half a line, so nothing may be appended to it.
                self._close(version)
                raise
            current.rows += len(lines)

    def _segment(self, version: str) -> _Open:
        current = self._open.get(version)
        if current and (current.rows >= MAX_ROWS or time.monotonic() - current.opened >= MAX_SECONDS):
            self._close(version)
            current = None
        if current is None:
            current = self._open[version] = _Open(self._new(version), time.monotonic())
        return current

    def _new(self, version: str) -> Segment:
        """Create a segment with a new, ascending number, also after a restart of the container.

        A number is taken only if it is from the same millisecond or the clock was set back; a free one is close.
        """
        self._sequence = max(self._sequence, time.time_ns() // 1_000_000)
        for _ in range(_ATTEMPTS):
            self._sequence += 1
            uri = join(self._uri, version, self._pod, f"{self._sequence:015d}.jsonl")
            path = local_path(uri)
            try:
                return RemoteSegment(uri) if path is None else LocalSegment(path)
            except FileExistsError:
                continue
        raise FileExistsError(f"{self._uri}: the next {_ATTEMPTS} file names of this pod already exist")

    def _close(self, version: str) -> None:
        self._open.pop(version).segment.close()


STORAGE_ERRORS = (OSError, StorageError)
