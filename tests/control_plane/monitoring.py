"""A real Prometheus and Alertmanager on this machine: our build of Prometheus, and Debian's Alertmanager."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from control_plane.harness import eventually, http
from testcluster import packages
from testcluster.binaries import binary
from testcluster.controlplane import free_port


def program(name: str) -> str:
    """The path of a program from Debian, which is installed if missing. Raises Error if it can't be installed."""
    packages.ensure(packages.FOR_TESTS)
    found = shutil.which(name)
    assert found is not None, name
    return found


class Process:
    """A server with its own folder, killed at the end of the context."""

    name: str
    path: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"{self.name}-{free_port()}"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """The command that starts the server."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self.command(), cwd=self.folder, stdout=log, stderr=log)
        eventually(lambda: http("GET", f"{self.url}/-/ready")[0] == 200)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def config(self, name: str, content: Any) -> Path:
        """Write a configuration file and return its path."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(content))
        return path


class Alertmanager(Process):
    """An Alertmanager that sends every alert to `webhook`, if given, after a second."""

    name = "alertmanager"

    def __init__(self, folder: Path, webhook: str | None = None, token: str = "") -> None:
        super().__init__(folder)
        receiver: dict[str, Any] = {"name": "driftloop"}
        if webhook:
            http_config = {"authorization": {"credentials": token}}
            receiver["webhook_configs"] = [{"url": webhook, "http_config": http_config}]
        route = {"receiver": "driftloop", "group_wait": "1s", "group_interval": "1s", "repeat_interval": "1h"}
        self._config = self.config("config.yml", {"route": route, "receivers": [receiver]})

    def command(self) -> list[str]:
        return [
            program("prometheus-alertmanager"),
            f"--config.file={self._config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.path={self.folder}/data",
            "--cluster.listen-address=",
        ]

    def post(self, path: str, content: Any) -> None:
        """Send a POST request to its API."""
        headers = {"Content-Type": "application/json"}
        code, text = http("POST", f"{self.url}/api/v2/{path}", json.dumps(content).encode(), headers)
        assert code == 200, text


class Prometheus(Process):
    """A Prometheus with one alert that fires until `end_alert`, and is sent to `alertmanager` if given."""

    name = "prometheus"

    def __init__(
        self, folder: Path, alert: str, labels: dict[str, str], alertmanager: Alertmanager | None = None
    ) -> None:
        super().__init__(folder)
        self._rule = {"alert": alert, "labels": labels}
        rules = self._write("vector(1)")
        targets = [f"127.0.0.1:{alertmanager.port}"] if alertmanager else []
        alerting = {"alertmanagers": [{"static_configs": [{"targets": targets}]}]}
        self._config = self.config("config.yml", {"rule_files": [str(rules)], "alerting": alerting})

    def command(self) -> list[str]:
        return [
            str(binary("prometheus")),
            f"--config.file={self._config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={self.folder}/data",
            # Prometheus discovers its Alertmanager seconds after the first alert, and would resend that after a minute.
            "--rules.alert.resend-delay=1s",
        ]

    def firing(self) -> list[Any]:
        """The series of the firing alert; empty if it doesn't fire."""
        found = http("GET", f'{self.url}/api/v1/query?query=ALERTS{{alertstate="firing"}}')[1]
        return list(json.loads(found)["data"]["result"])

    def end_alert(self) -> None:
        """Stop the alert at the next evaluation. Not by a time in the rule, which a slow start could miss."""
        self._write("vector(1) < 0")
        self._process.send_signal(signal.SIGHUP)

    def _write(self, expression: str) -> Path:
        rules = [{**self._rule, "expr": expression}]
        return self.config("rules.yml", {"groups": [{"name": "test", "interval": "1s", "rules": rules}]})
