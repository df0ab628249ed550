"""The kubectl plugin's archive works through a link, as krew installs it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from unit.cli.test_pinning import SERVICE, V

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("krew_build", ROOT / "deploy/krew/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_archive_runs_from_a_link(build: ModuleType, tmp_path: Path) -> None:
    packed = build.archive(ROOT / "operator", tmp_path / "built")
    with tarfile.open(packed) as files:
        files.extractall(tmp_path / "store", filter="data")
    link = tmp_path / "bin/kubectl-driftloop"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "store/kubectl-driftloop")
    (tmp_path / "service.yaml").write_text(SERVICE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [link, "pin", "-f", "service.yaml", "--version", V],
        cwd=tmp_path,
        env={"PATH": path, "PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"service.yaml: pins {V}\n", "")


def test_the_manifest_names_the_archive_and_its_digest(build: ModuleType, tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(b"content")
    spec = build.manifest(packed, "https://example.org/a.tar.gz", "0.1.0")["spec"]
    [platform] = spec["platforms"]
    assert spec["version"] == "v0.1.0"
    assert platform["sha256"] == hashlib.sha256(b"content").hexdigest()
    assert platform["bin"] == "kubectl-driftloop"
    assert len(spec["shortDescription"]) <= 50, "krew's limit"
