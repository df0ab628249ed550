"""The demo's output while it runs: one line per event, and a live line with bars below them."""

import shutil
import sys
import time
from datetime import UTC, datetime

WIDTH = 24


class Timeline:
    """Events with the time since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.events: list[dict[str, str]] = []
        self._live = ""
        self._shown = 0.0

    def event(self, text: str) -> None:
        """Record and print one event."""
        self.events.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": text})
        self._clear()
        print(f"[{clock(time.monotonic() - self.started)}] {text}", flush=True)

    def live(self, text: str) -> None:
        """Replace the live line. On a pipe, print one line every fifteen seconds."""
        now = time.monotonic()
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            self._live = text[: columns - 1]
            print(f"\r{self._live}\x1b[K", end="", flush=True)
        elif now - self._shown > 15:
            self._shown = now
            print(f"          {text}", flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="")
            self._live = ""


def bar(percent: float) -> str:
    """`[######------]  50%`"""
    full = round(WIDTH * min(max(percent, 0), 100) / 100)
    return f"[{'#' * full}{'-' * (WIDTH - full)}] {percent:3.0f}%"


def clock(seconds: float) -> str:
    """`mm:ss`"""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
