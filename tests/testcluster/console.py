"""Shows progress: one line per step with its duration, updated live in a terminal."""

import sys
import threading
import time
from types import TracebackType


class Error(Exception):
    """A failure with a message for the user, shown without a traceback."""


class Step:
    """Show `title` while the body runs, then the outcome and the duration.

    A terminal gets an update every second. Other outputs (CI logs) get a line every 30 s, so that a long build is not
    silent. Everything goes to stderr, as stdout is for results.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self._begin = time.monotonic()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Step":
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._ticker.join()
        self._write("✓" if kind is None else "✗", end="\n")

    def _tick(self) -> None:
        terminal = sys.stderr.isatty()
        while not self._done.wait(1.0 if terminal else 30.0):
            self._write("…", end="" if terminal else "\n")

    def _write(self, mark: str, end: str) -> None:
        start = "\r\033[K" if sys.stderr.isatty() else ""
        detail = f" · {self.detail}" if self.detail and mark == "…" else ""
        seconds = time.monotonic() - self._begin
        print(f"{start}{mark} {self.title}{detail} ({seconds:.1f} s)", end=end, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)
