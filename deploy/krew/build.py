"""Builds the kubectl plugin for this platform, and its krew manifest: `python deploy/krew/build.py --uri URI`.

    $ .venv/bin/python deploy/krew/build.py --uri https://example.org/driftloop-linux-amd64.tar.gz
    $ kubectl krew install --manifest=build/krew/driftloop.yaml --archive=build/krew/driftloop-linux-amd64.tar.gz

The archive has the package with its dependencies. Some of them are compiled, so it is for one platform and one minor
version of Python, which must be on the user's machine.
"""

import argparse
import hashlib
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PLUGIN = "kubectl-driftloop"
NEEDED = ("aiohttp", "kubernetes", "prometheus-client", "pydantic", "PyYAML")  # of the commands, without the operator
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
LAUNCHER = f"""\
#!/usr/bin/env python3
import os, sys
if sys.version_info[:2] != {sys.version_info[:2]}:
    sys.exit("{PLUGIN}: this archive is for Python {sys.version_info[0]}.{sys.version_info[1]}")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))
from driftloop.cli.main import main
sys.exit(main())
"""


def platform_name() -> tuple[str, str]:
    """Operating system and architecture as krew names them."""
    return platform.system().lower(), ARCHITECTURES[platform.machine()]


def archive(library: Path, folder: Path) -> Path:
    """Pack the launcher and a folder of packages."""
    folder.mkdir(parents=True, exist_ok=True)
    launcher, path = folder / PLUGIN, folder / f"driftloop-{'-'.join(platform_name())}.tar.gz"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    with tarfile.open(path, "w:gz") as packed:
        packed.add(launcher, PLUGIN)
        packed.add(library, "lib", filter=lambda entry: None if "__pycache__" in entry.name else entry)
        packed.add(ROOT / "LICENSE", "LICENSE")
    return path


def manifest(packed: Path, uri: str, version: str) -> dict[str, Any]:
    """The manifest of the plugin for one platform."""
    system, architecture = platform_name()
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "driftloop"},
        "spec": {
            "version": f"v{version}",
            "shortDescription": "Run, follow and compare fine-tunings of Driftloop",
            "description": "The commands of Driftloop as a plugin: validate, plan, run, wait, pin, propose, lineage, "
            "diff, approve.\n",
            "caveats": f"Needs Python {sys.version_info[0]}.{sys.version_info[1]} as python3.\n",
            "platforms": [
                {
                    "selector": {"matchLabels": {"os": system, "arch": architecture}},
                    "uri": uri,
                    "sha256": hashlib.sha256(packed.read_bytes()).hexdigest(),
                    "bin": PLUGIN,
                }
            ],
        },
    }


def main() -> int:
    """Install the packages, pack them, and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True, help="where the archive will be published")
    parser.add_argument("--out", type=Path, default=ROOT / "build/krew", help="folder to write to")
    parsed = parser.parse_args()
    library = parsed.out / "lib"
    install = [str(Path(sys.executable).with_name("uv")), "pip", "install", "-q", "--target", str(library)]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), *NEEDED], check=True)  # noqa: S603 - fixed arguments
    subprocess.run([*install, "--no-deps", str(ROOT)], check=True)  # noqa: S603 - fixed arguments
    packed = archive(library, parsed.out)
    (version,) = (path.name.split("-")[1] for path in library.glob("driftloop-*.dist-info"))
    version = version.removesuffix(".dist")
    (parsed.out / "driftloop.yaml").write_text(
        yaml.safe_dump(manifest(packed, parsed.uri, version), sort_keys=False, width=110)
    )
    print(f"wrote {parsed.out / 'driftloop.yaml'} and {packed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
