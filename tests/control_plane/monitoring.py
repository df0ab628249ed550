"""A real Prometheus and Alertmanager on this machine: the cluster's Prometheus, and Debian's Alertmanager."""

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
    """Path of one of Debian's programs, installed first where it isn't there. Raises Error where that can't be."""
    packages.ensure(packages.FOR_TESTS)
    found = shutil.which(name)
    assert found is not None, name
    return found


class Process:
    """A server in a folder of its own, ended with the block."""

    name: str
    path: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"{self.name}-{free_port()}"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """What to run."""
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
        """A configuration file."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(content))
        return path


class Alertmanager(Process):
    """An Alertmanager that tells `webhook`, if given, of every alert after a second."""

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
        """POST to its API."""
        headers = {"Content-Type": "application/json"}
        code, text = http("POST", f"{self.url}/api/v2/{path}", json.dumps(content).encode(), headers)
        assert code == 200, text


class Prometheus(Process):
    """A Prometheus with one alert that fires until it is ended, and tells `alertmanager` if there is one."""

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
            # It finds its Alertmanager seconds after the first alert, and would tell it again after a minute.
            "--rules.alert.resend-delay=1s",
        ]

    def firing(self) -> list[Any]:
        """The alert's series, while it fires."""
        found = http("GET", f'{self.url}/api/v1/query?query=ALERTS{{alertstate="firing"}}')[1]
        return list(json.loads(found)["data"]["result"])

    def end_alert(self) -> None:
        """From the next look at the rule on it doesn't fire. Not by a time in the rule: a slow start would miss it."""
        self._write("vector(1) < 0")
        self._process.send_signal(signal.SIGHUP)

    def _write(self, expression: str) -> Path:
        rules = [{**self._rule, "expr": expression}]
        return self.config("rules.yml", {"groups": [{"name": "test", "interval": "1s", "rules": rules}]})
