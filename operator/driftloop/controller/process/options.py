"""How the operator runs: flags, each with an environment variable as its default."""

import argparse
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.controller.process.leader import Election
from driftloop.controller.vocabulary.plan import Settings

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Options:
    """The deciders' settings and the runtime's own."""

    settings: Settings
    election: Election
    kubeconfig: str | None
    workers: int
    qps: float
    burst: int
    resync_seconds: float
    listen_host: str
    health_port: int
    webhook_port: int
    webhook_token_file: Path | None
    alert_poll_seconds: float
    alert_lookback_seconds: float
    log_level: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `driftloop operator`. `--trainer-image` may come as DRIFTLOOP_TRAINER_IMAGE, and so on."""
    pods = _adder(parser.add_argument_group("pods"))
    pods("--trainer-image", str, None, "IMAGE", "image of the trainer's pods")
    pods("--server-image", str, None, "IMAGE", "image of the serving pods")
    pods("--image-pull-policy", str, "IfNotPresent", "POLICY", "Always, IfNotPresent or Never")
    pods("--child-labels", _pairs, "", "KEY=VALUE,...", "labels on everything that is created")

    cluster = _adder(parser.add_argument_group("cluster"))
    cluster("--kubeconfig", str, None, "FILE", "without it a pod uses its service account")
    cluster("--namespaces", _list, "", "NAME,...", "watch only these namespaces; all if empty")
    cluster("--cluster-domain", str, "cluster.local", "DOMAIN", "DNS domain of Services")
    cluster("--qps", _positive, "50", "N", "requests per second to the API server")
    cluster("--burst", _count, "100", "N", "requests at once")
    cluster("--workers", _count, "8", "N", "objects reconciled at once")
    cluster("--resync-seconds", _positive, "600", "N", "between two reads of everything")

    monitoring = _adder(parser.add_argument_group("monitoring"))
    monitoring("--prometheus-url", _url, None, "URL", "Prometheus that scrapes the pods")
    monitoring("--alertmanager-urls", _urls, "", "URL,...", "Alertmanagers to poll")
    monitoring("--alert-poll-seconds", _positive, "30", "N", "between two polls of the Alertmanagers")
    monitoring(
        "--alert-lookback-seconds", _positive, "21600", "N", "at the start: how long ago an alert may have ended"
    )

    listeners = _adder(parser.add_argument_group("listeners"))
    listeners("--listen-host", str, "0.0.0.0", "ADDRESS", "address of both listeners")  # noqa: S104 - in a pod
    listeners("--health-port", _port, "8080", "N", "/healthz, /readyz and /metrics")
    listeners("--webhook-port", _port, "8090", "N", "Alertmanager's webhook: POST /alerts")
    listeners(
        "--webhook-token-file",
        Path,
        None,
        "FILE",
        "file with the webhook's bearer token; without it there is no webhook",
    )

    lease = _adder(parser.add_argument_group("leader election"))
    lease("--lease-namespace", str, _namespace(), "NAME", "the operator's own namespace")
    lease("--lease-name", str, "driftloop-operator", "NAME", "name of the Lease; the same for all replicas")
    lease("--identity", str, _identity(), "NAME", "name of this replica")
    lease("--lease-seconds", _positive, "15", "N", "time without a leader after the leader crashes")
    lease("--renew-deadline-seconds", _positive, "10", "N", "a leader that can't renew for this long ends itself")
    lease("--retry-seconds", _positive, "2", "N", "between two attempts")
    _adder(parser)("--log-level", str, "info", "LEVEL", "debug, info, warning or error")


def options(found: argparse.Namespace) -> Options:
    """Options from parsed flags. Raises ValueError naming what is wrong."""
    missing = [flag for flag in ("trainer_image", "server_image") if not getattr(found, flag)]
    if missing:
        raise ValueError(f"--{missing[0].replace('_', '-')} is needed")
    settings = Settings(
        trainer_image=found.trainer_image,
        server_image=found.server_image,
        namespaces=found.namespaces,
        image_pull_policy=found.image_pull_policy,
        prometheus_url=found.prometheus_url,
        alertmanager_urls=found.alertmanager_urls,
        cluster_domain=found.cluster_domain,
        labels=found.child_labels,
    )
    election = Election(
        namespace=found.lease_namespace,
        name=found.lease_name,
        identity=found.identity,
        duration=found.lease_seconds,
        renew_deadline=found.renew_deadline_seconds,
        retry_period=found.retry_seconds,
    )
    own = {name: getattr(found, name) for name in Options.__dataclass_fields__ if name not in ("settings", "election")}
    return Options(settings=settings, election=election, **own)


def _adder(group: Any) -> Callable[[str, Callable[[str], Any], str | None, str, str], None]:
    def add(flag: str, convert: Callable[[str], Any], default: str | None, metavar: str, text: str) -> None:
        variable = "DRIFTLOOP_" + flag.removeprefix("--").replace("-", "_").upper()
        shown = f"{text} (${variable}; default {default})" if default else f"{text} (${variable})"
        # argparse converts a default that is a string, so a bad environment variable is refused like a bad flag.
        group.add_argument(flag, type=convert, default=os.environ.get(variable, default), metavar=metavar, help=shown)

    return add


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _list(text)]
    if bad := next((key for key, equals, _ in pairs if not (key and equals)), None):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {bad!r}")
    return {key: value for key, _, value in pairs}


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"not an http(s) URL: {text!r}")
    return text


def _urls(text: str) -> tuple[str, ...]:
    return tuple(_url(each) for each in _list(text))


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port, not {text}")
    return value


def _namespace() -> str:
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"


def _identity() -> str:
    """The pod's name in a pod: a restarted container takes up its own lease at once. Elsewhere one of its own a run."""
    host = socket.gethostname()
    return host if NAMESPACE_FILE.exists() else f"{host}-{uuid.uuid4().hex[:8]}"
