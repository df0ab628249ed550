"""Creates certificates and kubeconfigs with openssl."""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testcluster.console import Error

_OPENSSL = """\
[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, digitalSignature
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
"""


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in `directory`, created at first use."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self.ca = Certificate(directory / "ca.crt", directory / "ca.key")
        self._config = directory / "openssl.cnf"
        self._config.write_text(_OPENSSL)
        if not self.ca.cert.exists():
            self._request(self.ca, "/CN=driftloop-testcluster", "authority")
        self.service_accounts = self.issue("service-accounts")  # signs the tokens of ServiceAccounts

    def issue(self, user: str, group: str = "", names: Sequence[str] = ()) -> Certificate:
        """The certificate of `user` (a Kubernetes user name) in `group`, also valid for a server with `names`.

        Args:
            user: common name; also the file name, with `:` written as `-`.
            group: organisation; empty for none.
            names: subject alternative names in openssl's form, e.g. `DNS:localhost`, `IP:127.0.0.1`.
        """
        stem = user.replace(":", "-")
        issued = Certificate(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        if not issued.cert.exists():
            subject = (f"/O={group}" if group else "") + f"/CN={user}"
            signed = ["-CA", str(self.ca.cert), "-CAkey", str(self.ca.key)]
            extra = ["-addext", f"subjectAltName={','.join(names)}"] if names else []
            self._request(issued, subject, "leaf", *signed, *extra)
        return issued

    def kubeconfig(self, server: str, user: str, group: str = "") -> str:
        """A kubeconfig with embedded certificates for `user` at the API server `server` (a URL), as JSON."""
        certificate = self.issue(user, group)
        name = "driftloop"
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": name,
                        "cluster": {"server": server, "certificate-authority-data": base64_of(self.ca.cert)},
                    }
                ],
                "users": [
                    {
                        "name": user,
                        "user": {
                            "client-certificate-data": base64_of(certificate.cert),
                            "client-key-data": base64_of(certificate.key),
                        },
                    }
                ],
                "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
                "current-context": name,
            },
            indent=1,
        )

    def _request(self, target: Certificate, subject: str, extensions: str, *extra: str) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(target.key)]
        partial = target.cert.with_suffix(".partial")  # so that a killed run doesn't leave an incomplete certificate
        kind = ["-x509", "-days", "3650", "-config", str(self._config), "-extensions", extensions]
        _openssl("req", *kind, *key, "-subj", subject, "-out", str(partial), *extra)
        partial.rename(target.cert)


def base64_of(path: Path) -> str:
    """The content of a file, as kubeconfigs and objects of Kubernetes have it."""
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise Error("openssl is missing. Install it with: apt-get install -y openssl") from None
    except subprocess.CalledProcessError as failed:
        raise Error(f"openssl {arguments[0]} failed: {failed.stderr}") from failed
