"""Reads the lines of files and of standard input, with bounded memory."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from driftloop.cli.detecting.requests import Unreadable
from driftloop.cli.manifests import STANDARD_INPUT, BadInput, source_name

MAX_LINE = 16 << 20  # bytes; an OTLP line has many spans


@dataclass(frozen=True)
class Numbered:
    """A line and where it is."""

    source: str
    number: int
    content: str | Unreadable

    @property
    def name(self) -> str:
        """The line's place, for people."""
        return f"{self.source} line {self.number}"


def lines(names: list[str]) -> Iterator[Numbered]:
    """The lines of all sources, one after the other. Raises BadInput if a source can't be opened or read."""
    for name in names:
        source = source_name(name)
        try:
            with _opened(name) as stream:
                for number, content in enumerate(_contents(stream), start=1):
                    yield Numbered(source, number, content)
        except OSError as error:
            raise BadInput(f"{source}: {error.strerror or error}") from error


def _opened(name: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if name == STANDARD_INPUT else Path(name).open("rb")


def _contents(stream: IO[bytes]) -> Iterator[str | Unreadable]:
    while line := stream.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield Unreadable(f"longer than {MAX_LINE >> 20} MiB")
            continue
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            yield Unreadable("not UTF-8")
