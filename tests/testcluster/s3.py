"""A real S3 server for tests: Versity's gateway for a local folder."""

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
    """A running gateway. Its buckets are the folders in `root`."""

    url: str
    root: Path
    command: tuple[str, ...]  # starts the same server again, for example in another network namespace

    def bucket(self, name: str) -> Path:
        """Create a bucket. Returns the folder with its objects as files."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def environment(self) -> dict[str, str]:
        """The content of a pod's storage Secret for this server, which needs path-style addresses."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "FSSPEC_S3": json.dumps({"config_kwargs": {"s3": {"addressing_style": "path"}}}),
        }


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run a server with its buckets in `folder`."""
    root, meta, log = folder / "buckets", folder / "meta", folder / "s3.log"
    for directory in (root, meta):
        directory.mkdir(parents=True)
    port = free_port()
    options = [f"--port=127.0.0.1:{port}", f"--access={ACCESS}", f"--secret={SECRET}", "--quiet"]
    # Metadata is in files, as file systems in memory may not support extended attributes.
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
            return  # refused for lack of a key, so the server is running
        except OSError:
            time.sleep(0.05)
    raise Error(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
