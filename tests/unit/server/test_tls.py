"""HTTPS by the proxy, with certificates that the test signs: chains, renewals, faults, and what stays HTTP."""

import asyncio
import datetime
import ipaddress
import json
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from driftloop.contract.task import ServeTask
from driftloop.podlib.ending import TryAgain
from driftloop_server.proxy.tls import RELOAD_SECONDS, Certificate
from unit.server.processes import KEYS, TOKEN, Process, Start, answers, wait_for

NAME = "desk.support.svc"


@dataclass
class Authority:
    """Signs certificates for NAME, each with its serial number."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, serial: int) -> tuple[bytes, bytes]:
        """A certificate and its key as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = x509.SubjectAlternativeName([x509.DNSName(NAME), address])
        built = _builder(NAME, self.certificate.subject, key, serial).add_extension(names, critical=False)
        return _pem(built.sign(self.key, hashes.SHA256())), _key_pem(key)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts only this authority."""
        return ssl.create_default_context(cadata=_pem(self.certificate).decode())


def _builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, serial: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    found = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject)
    return (
        found.public_key(key.public_key()).serial_number(serial).not_valid_before(now - day).not_valid_after(now + day)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    built = _builder("test authority", None, key, 1).add_extension(x509.BasicConstraints(True, 0), critical=True)
    return Authority(key, built.sign(key, hashes.SHA256()))


def write(folder: Path, certificate: bytes, key: bytes) -> None:
    """Replace the files in one step, as the kubelet does: they are links through `..data`, a link to a folder."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    (version / "tls.crt").write_bytes(certificate)
    (version / "tls.key").write_bytes(key)
    link = folder / "..new"
    link.symlink_to(version.name)
    os.replace(link, folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Path:
    found = tmp_path_factory.mktemp("tls")
    write(found, *authority.issue(1001))
    return found


@pytest.fixture(scope="module")
def pod(pods: Start, folder: Path) -> Process:
    return pods(tls_secret="desk-tls", environment={"DRIFTLOOP_TLS": str(folder)})


def presented(port: int, context: ssl.SSLContext) -> tuple[int, str]:
    """The serial number of the certificate that a listener presents, and the protocol's version."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(plain, server_hostname=NAME) as connection:
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number, connection.version() or ""


async def test_the_official_client_talks_https_whole_and_streamed(pod: Process, authority: Authority) -> None:
    http = DefaultAsyncHttpxClient(verify=authority.trusting())
    base = f"https://127.0.0.1:{pod.ports['api']}/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, http_client=http) as client:
        asked = {
            "model": "desk",
            "messages": [{"role": "user", "content": "my card"}],
            "max_tokens": 5,
            "temperature": 0,
        }
        whole = await client.chat.completions.create(**asked)  # type: ignore[call-overload]
        stream = await client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content != ""


async def test_ratings_are_https_too_and_probes_and_metrics_stay_http(pod: Process, authority: Authority) -> None:
    url = f"https://127.0.0.1:{pod.ports['feedback']}/v1/feedback"
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = await session.post(url, json={}, headers=headers, ssl=authority.trusting(), server_hostname=NAME)
        assert answer.status == 400
    for path in ("healthz", "readyz", "enginez", "metrics"):
        assert await asyncio.to_thread(answers, f"http://127.0.0.1:{pod.ports['metrics']}/{path}")


def test_old_tls_and_plain_http_are_refused(pod: Process, authority: Authority) -> None:
    context = authority.trusting()
    assert presented(pod.ports["api"], context)[1] == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert presented(pod.ports["api"], context)[1] == "TLSv1.2"
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        presented(pod.ports["api"], context)
    assert not answers(f"http://127.0.0.1:{pod.ports['api']}/v1/models")


def test_a_renewed_certificate_is_presented_without_a_restart_and_a_broken_one_never(
    pod: Process, folder: Path, authority: Authority
) -> None:
    context = authority.trusting()
    before = presented(pod.ports["api"], context)[0]
    assert before == 1001
    certificate, _ = authority.issue(1002)
    write(folder, certificate, authority.issue(1003)[1])  # the key of another one
    wait_for(lambda: "can't be used" in pod.output.read_text(), 4 * RELOAD_SECONDS)
    assert presented(pod.ports["api"], context)[0] == 1001
    write(folder, *authority.issue(1004))
    wait_for(lambda: presented(pod.ports["api"], context)[0] == 1004, 4 * RELOAD_SECONDS)
    assert presented(pod.ports["feedback"], context)[0] == 1004
    assert answers(f"http://127.0.0.1:{pod.ports['metrics']}/readyz")


def test_a_pod_without_its_certificate_says_what_to_create_and_tries_again(
    launch: Start, serve_task: ServeTask, tmp_path: Path
) -> None:
    ending = tmp_path / "ending"
    task = serve_task.model_copy(update={"tls_secret": "desk-tls"})
    process = launch("proxy", task, **KEYS, DRIFTLOOP_TLS=str(tmp_path / "no"), DRIFTLOOP_TERMINATION_LOG=str(ending))
    assert process.popen.wait(60) == 75
    document = json.loads(ending.read_text())
    assert document["reason"] == "NoCertificate"
    assert "Secret desk-tls has no certificate that can be used (tls.crt or tls.key is missing)" in document["message"]


@pytest.mark.parametrize(
    ("certificate", "key"), [(b"", b""), (b"not a certificate", b"not a key"), (None, b"not a key")]
)
def test_files_that_are_no_certificate_with_its_key_are_refused_and_never_quoted(
    tmp_path: Path, authority: Authority, certificate: bytes | None, key: bytes
) -> None:
    write(tmp_path, authority.issue(1)[0] if certificate is None else certificate, key)
    with pytest.raises(TryAgain, match="Secret desk-tls has no certificate that can be used") as caught:
        Certificate(tmp_path, "desk-tls")
    assert "not a key" not in caught.value.message
