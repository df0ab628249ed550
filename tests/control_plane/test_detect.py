"""`driftloop detect` with the counters of a proxy in a real Prometheus."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control_plane.monitoring import Process, program
from driftloop.cli.exits import Exit
from driftloop.cli.main import main
from testcluster.binaries import binary

pytestmark = pytest.mark.control_plane

HOURS, SHIFTED = 10, 2  # of the counters, and of them at the end after a shift
BINS = 10


def samples(now: datetime) -> str:
    """Counters once per minute, ten requests each: even over the bins, and later in the upper half alone."""
    lines, start = [], now - timedelta(hours=HOURS)
    for signal in ("surprisal", "oov", "length"):
        for index in range(BINS):
            value = 0
            for minute in range(HOURS * 60):
                shifted = minute >= (HOURS - SHIFTED) * 60 and signal == "surprisal"
                value += (2 if index >= BINS // 2 else 0) if shifted else 1
                at = start + timedelta(minutes=minute)
                for service, versions in (("desk", ("v1",)), ("two", ("v1", "v2"))):
                    for version in versions:
                        labels = f'inference_service="{service}",model_version="{version}",signal="{signal}"'
                        series = f'driftloop_drift_bin_total{{{labels},bin="{index:02d}"}}'
                        lines.append(f"{series} {value} {at.timestamp():.0f}")
    return "\n".join([*sorted(lines, key=lambda line: line.split(" ")[0]), "# EOF"]) + "\n"


class Filled(Process):
    """A Prometheus with these counters that scrapes nothing."""

    name = "prometheus"

    def command(self) -> list[str]:
        file = self.folder / "samples"
        file.write_text(samples(datetime.now(UTC)))
        make = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(file), f"{self.folder}/data"]
        subprocess.run(make, check=True, capture_output=True, timeout=60)
        return [
            str(binary("prometheus")),
            f"--config.file={self.config('config.yml', {})}",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Filled(tmp_path_factory.mktemp("prometheus")) as filled:
        yield filled.url


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["detect", "-o", "json", "--since", "12h", "--baseline-minimum-hours", "2", *arguments])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def test_a_shift_of_the_counters_is_an_alarm_and_a_later_run_goes_on(
    prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    arguments = ("--prometheus", prometheus, "--service", "desk", "--state", str(state))
    code, found = run(capsys, *arguments, "--until-alarm")
    assert (code, len(found["alarms"])) == (Exit.DRIFTED, 1)
    assert found["message"].startswith("drift: surprisal rose by 0.8")
    code, found = run(capsys, *arguments)
    assert (code, found["verdict"]) == (Exit.DRIFTED, "Drifted")
    total = (HOURS * 60 - 1) * BINS
    assert total - 300 * BINS < found["requestsCompared"] < total
    assert json.loads(state.read_text())["status"]["version"] == "v1"


def test_one_of_several_versions_is_chosen(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["detect", "--prometheus", prometheus, "--service", "two"])
    assert caught.value.code == Exit.USAGE
    assert "set --version to one of v1, v2" in capsys.readouterr().err
    assert run(capsys, "--prometheus", prometheus, "--service", "two", "--version", "v2")[0] == Exit.DRIFTED


def test_counters_that_are_not_there_are_told(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["detect", "--prometheus", prometheus, "--service", "gone"])
    assert caught.value.code == Exit.USAGE
    assert "Prometheus has no driftloop_drift_bin_total of service gone" in capsys.readouterr().err


def test_a_prometheus_that_gives_no_answer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--prometheus", "http://127.0.0.1:9", "--service", "desk"]) == Exit.CLUSTER
    assert "127.0.0.1:9" in capsys.readouterr().err
