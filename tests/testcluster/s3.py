"""A real S3 server for tests: Versity's gateway over a folder, on a port of its own."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testcluster.binaries import binary
from testcluster.console import Error
from testcluster.controlplane import free_port

ACCESS, SECRET = "driftloop-tests", "the-secret-of-the-tests"
START_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """A gateway; its buckets are the folders below `root`."""

    url: str
    root: Path
    command: tuple[str, ...]  # starts the same server, in a network namespace of its own for instance

    def bucket(self, name: str) -> Path:
        """Make a bucket; the folder that its objects lie in as files."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def environment(self) -> dict[str, str]:
        """What a pod's storage Secret holds for a server like this one, which wants buckets in the path."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "FSSPEC_S3": json.dumps({"config_kwargs": {"s3": {"addressing_style": "path"}}}),
        }


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run one that keeps its buckets below `folder`."""
    root, meta, log = folder / "buckets", folder / "meta", folder / "s3.log"
    for each in (root, meta):
        each.mkdir(parents=True)
    port = free_port()
    options = [f"--port=127.0.0.1:{port}", f"--access={ACCESS}", f"--secret={SECRET}", "--quiet"]
    # Metadata in a folder of its own: file systems in memory may lack extended attributes.
    command = (str(binary("versitygw")), *options, "posix", f"--sidecar={meta}", str(root))
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _await(process, f"http://127.0.0.1:{port}", log)
        yield Server(f"http://127.0.0.1:{port}", root, command)
    finally:
        process.kill()
        process.wait()


def _await(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except urllib.error.HTTPError:
            return  # it refuses who shows no key: it is there
        except OSError:
            time.sleep(0.05)
    raise Error(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
