"""The operator's flags. Each flag can also be set by an environment variable."""

import argparse
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from driftloop.api.acceptance import Acceptance
from driftloop.controller.process.leader import Election
from driftloop.controller.vocabulary.plan import Settings

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Options:
    """Settings of the deciders, and options of the process."""

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
    """Add the flags of `driftloop operator`. `--trainer-image` can be set as DRIFTLOOP_TRAINER_IMAGE, and so on."""
    pods = _adder(parser.add_argument_group("pods"))
    pods("--trainer-image", str, None, "IMAGE", "image of the training pods; required")
    pods("--server-image", str, None, "IMAGE", "image of the serving pods; required")
    pods("--vllm-image", str, None, "IMAGE", "image of vLLM, for services with GPUs that name no engine")
    pods(
        "--image-pull-policy",
        str,
        "IfNotPresent",
        "POLICY",
        "pull policy of the pods: Always, IfNotPresent or Never",
    )
    pods("--child-labels", _pairs, "", "KEY=VALUE,...", "labels for all objects that the operator creates")

    versions = _adder(parser.add_argument_group("versions"))
    versions(
        "--acceptance",
        _acceptance,
        "",
        "JSON",
        "what every InferenceService requires of a version, in the form of spec.acceptance, which adds to it",
    )

    cluster = _adder(parser.add_argument_group("cluster"))
    cluster("--kubeconfig", str, None, "FILE", "kubeconfig file; without it a pod uses its service account")
    cluster("--namespaces", _list, "", "NAME,...", "namespaces to watch; all if empty")
    cluster("--cluster-domain", str, "cluster.local", "DOMAIN", "DNS domain of the cluster")
    cluster(
        "--gateway-namespaces",
        _list,
        "",
        "NAME,...",
        "namespaces whose Gateways every service may name in spec.gateway, besides those of its own namespace",
    )
    cluster("--qps", _positive, "50", "N", "maximum requests per second to the API server")
    cluster("--burst", _count, "100", "N", "maximum burst of requests to the API server")
    cluster("--workers", _count, "8", "N", "number of objects to reconcile at the same time")
    cluster("--resync-seconds", _positive, "600", "N", "seconds between two lists of all objects")

    monitoring = _adder(parser.add_argument_group("monitoring"))
    monitoring("--prometheus-url", _url, None, "URL", "URL of the Prometheus that scrapes the pods")
    monitoring("--alertmanager-urls", _urls, "", "URL,...", "URLs of the Alertmanagers to poll")
    monitoring("--alert-poll-seconds", _positive, "30", "N", "seconds between two polls of the Alertmanagers")
    monitoring(
        "--alert-lookback-seconds",
        _positive,
        "21600",
        "N",
        "at the start, also record alerts that ended at most this many seconds ago",
    )

    listeners = _adder(parser.add_argument_group("listeners"))
    listeners("--listen-host", str, "0.0.0.0", "ADDRESS", "address of both listeners")  # noqa: S104 - in a pod
    listeners("--health-port", _port, "8080", "N", "port of /healthz, /readyz and /metrics")
    listeners("--webhook-port", _port, "8090", "N", "port of the webhook for Alertmanager: POST /alerts")
    listeners(
        "--webhook-token-file",
        Path,
        None,
        "FILE",
        "file with the bearer token of the webhook; without it there is no webhook",
    )

    lease = _adder(parser.add_argument_group("leader election"))
    lease("--lease-namespace", str, _namespace(), "NAME", "namespace of the Lease: the operator's own")
    lease("--lease-name", str, "driftloop-operator", "NAME", "name of the Lease; the same for all replicas")
    lease("--identity", str, _identity(), "NAME", "name of this replica; must be unique")
    lease("--lease-seconds", _positive, "15", "N", "seconds without a leader after the leader crashes")
    lease(
        "--renew-deadline-seconds",
        _positive,
        "10",
        "N",
        "seconds after which a leader that can't renew the Lease ends itself",
    )
    lease("--retry-seconds", _positive, "2", "N", "seconds between two attempts to acquire or renew the Lease")
    _adder(parser)("--log-level", str, "info", "LEVEL", "minimum level of log lines: debug, info, warning or error")


def options(parsed: argparse.Namespace) -> Options:
    """Options from parsed flags. Raises ValueError that names the wrong flag."""
    missing = [flag for flag in ("trainer_image", "server_image") if not getattr(parsed, flag)]
    if missing:
        raise ValueError(f"set --{missing[0].replace('_', '-')}")
    settings = Settings(
        trainer_image=parsed.trainer_image,
        server_image=parsed.server_image,
        vllm_image=parsed.vllm_image or None,
        namespaces=parsed.namespaces,
        image_pull_policy=parsed.image_pull_policy,
        prometheus_url=parsed.prometheus_url,
        alertmanager_urls=parsed.alertmanager_urls,
        cluster_domain=parsed.cluster_domain,
        gateway_namespaces=parsed.gateway_namespaces,
        labels=parsed.child_labels,
        acceptance=parsed.acceptance,
    )
    election = Election(
        namespace=parsed.lease_namespace,
        name=parsed.lease_name,
        identity=parsed.identity,
        duration=parsed.lease_seconds,
        renew_deadline=parsed.renew_deadline_seconds,
        retry_period=parsed.retry_seconds,
    )
    own = {name: getattr(parsed, name) for name in Options.__dataclass_fields__ if name not in ("settings", "election")}
    return Options(settings=settings, election=election, **own)


def _adder(group: Any) -> Callable[[str, Callable[[str], Any], str | None, str, str], None]:
    def add(flag: str, convert: Callable[[str], Any], default: str | None, metavar: str, text: str) -> None:
        variable = "DRIFTLOOP_" + flag.removeprefix("--").replace("-", "_").upper()
        shown = f"{text} (${variable}; default {default})" if default else f"{text} (${variable})"
        # argparse also converts a default that is a string, so it refuses a wrong environment variable like a wrong
        # flag.
        group.add_argument(flag, type=convert, default=os.environ.get(variable, default), metavar=metavar, help=shown)

    return add


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _list(text)]
    if bad := next((key for key, equals, _ in pairs if not (key and equals)), None):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, not {bad!r}")
    return {key: value for key, _, value in pairs}


def _acceptance(text: str) -> Acceptance:
    """The document, checked more strictly than an API server does: it would drop unknown fields silently."""
    if not text.strip():
        return Acceptance()
    try:
        return Acceptance.model_validate_json(text, strict=True, extra="forbid", by_alias=True, by_name=False)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'the document'}: {fault['msg']}" for fault in error.errors())
        raise argparse.ArgumentTypeError("; ".join(faults)) from error


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must be an http or https URL, not {text!r}")
    return text


def _urls(text: str) -> tuple[str, ...]:
    return tuple(_url(part) for part in _list(text))


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
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not {text}")
    return value


def _namespace() -> str:
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"


def _identity() -> str:
    """In a pod the pod's name, so that a restarted container still holds its lease. Elsewhere a unique name per run."""
    host = socket.gethostname()
    return host if NAMESPACE_FILE.exists() else f"{host}-{uuid.uuid4().hex[:8]}"
