"""Daemons, each in its own cgroup, by which they are found and stopped."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from testcluster import cgroups, wait
from testcluster.console import Error
from testcluster.files import replace_text
from testcluster.paths import STATE

LOGS = STATE / "logs"
_SPECS = STATE / "services"


@dataclass(frozen=True)
class Service:
    """A daemon.

    Attributes:
        name: unique on the machine; names its log and cgroup.
        command: program (absolute path) and arguments.
        files: configuration to write before each start, by absolute path.
        netns: file of the network namespace it runs in; empty for the machine's.
    """

    name: str
    command: list[str]
    files: dict[str, str] = field(default_factory=dict)
    netns: str = ""

    def running(self) -> bool:
        """Whether the daemon itself runs. Its children, such as containerd's shims, may run longer."""
        return bool(self._main())

    def changed(self) -> bool:
        """Whether its last start, from any checkout, was with a different command or configuration."""
        spec = _SPECS / f"{self.name}.json"
        return spec.exists() and json.loads(spec.read_text()) != asdict(self)

    def start(self) -> None:
        """Start the daemon if it is not running."""
        if self.running():
            return
        for path, text in self.files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
        LOGS.mkdir(parents=True, exist_ok=True)
        replace_text(_SPECS / f"{self.name}.json", json.dumps(asdict(self)))
        # The shell joins the group before it becomes the program, so the process is never outside the group.
        join = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroups.service_group(self.name) / "cgroup.procs")]
        # Not `ip netns exec`, which mounts a new /sys that hides the cgroups.
        enter = ["nsenter", f"--net={self.netns}"] if self.netns else []
        with (LOGS / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*join, *enter, *self.command],
                cwd=STATE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait.until(lambda: self.running() or process.poll() is not None, f"the start of {self.name}", 10, every=0.01)
        self.check()

    def check(self) -> bool:
        """Raise Error with the end of the log if the daemon doesn't run. Returns True."""
        if not self.running():
            log = LOGS / f"{self.name}.log"
            raise Error(f"{self.name} has stopped; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")
        return True

    def stop(self, seconds: float = 10) -> None:
        """Kill the daemon, like a crash, but not its children."""
        end = time.monotonic() + seconds
        while main := self._main():
            if time.monotonic() > end:
                raise Error(f"{self.name} doesn't stop")
            cgroups.send(main, signal.SIGKILL)
            time.sleep(0.02)

    def _main(self) -> list[int]:
        program = os.path.realpath(self.command[0])
        return [pid for pid in cgroups.processes(cgroups.service_group(self.name)) if _program(pid) == program]


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:  # the process has just ended
        return ""
