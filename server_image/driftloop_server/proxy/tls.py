"""HTTPS with the certificate of a mounted Secret, read again when it changes.

Kubernetes updates the mounted folder within about a minute of a change of the Secret, such as a renewal by
cert-manager. Connections that are open keep the certificate that they began with.
"""

import asyncio
import logging
import ssl
from pathlib import Path

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import TryAgain

log = logging.getLogger(__name__)

RELOAD_SECONDS = 10.0
_FILES = ("tls.crt", "tls.key")  # of a Secret of the type kubernetes.io/tls


class Certificate:
    """The certificate in `folder`. `context` is for listeners, and follows the files while `watch` runs."""

    def __init__(self, folder: Path, secret: str) -> None:
        """Raises TryAgain if there is none: the Secret may still be created, by cert-manager for example."""
        self._folder = folder
        self._seen = self._version()
        try:
            self.context = self._load()
        except (OSError, ValueError) as error:
            raise TryAgain(
                StageReason.NO_CERTIFICATE,
                f"spec.tls: Secret {secret} has no certificate that can be used ({_fault(error)}): create it with the "
                "type kubernetes.io/tls, a certificate tls.crt and its key tls.key",
            ) from None

    async def watch(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the files again if they have changed. Files that can't be used change nothing."""
        if (version := self._version()) == self._seen:
            return
        self._seen = version
        try:
            self._load()  # tried apart: a certificate without its key would break the listeners' context
            self._fill(self.context)
        except (OSError, ValueError) as error:
            log.error("the TLS certificate has changed and can't be used; the one before stays: %s", _fault(error))
            return
        log.info("the TLS certificate has changed")

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._fill(context)
        return context

    def _fill(self, context: ssl.SSLContext) -> None:
        certificate, key = (str(self._folder / name) for name in _FILES)
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")

    def _version(self) -> list[int]:
        """What changes when the Secret does. Kubernetes writes all files anew, and replaces them in one step."""
        try:
            return [(self._folder / name).stat().st_mtime_ns for name in _FILES]
        except OSError:
            return []


def _fault(error: Exception) -> str:
    """What is wrong, without the content of the files."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not a certificate with its key").replace("_", " ").lower()
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing" if error.filename else "tls.crt or tls.key is missing"
    return str(error)
