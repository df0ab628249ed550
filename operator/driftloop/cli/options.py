"""Options that several commands share."""

import argparse
import re

from driftloop.cli.faults import MAX_NAME, NAME

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
MAX_SECONDS = 30 * 86_400


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """Add -o. The default is the first form."""
    choices = forms or ("text", "json")
    parser.add_argument(
        "-o", "--output", choices=choices, default=choices[0], help="form of the result (default: %(default)s)"
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cluster and the namespace."""
    group = parser.add_argument_group("cluster")
    group.add_argument("-n", "--namespace", help="namespace (default: that of the context, or of the pod)")
    group.add_argument("--context", help="context of the kubeconfig (default: its current context)")
    group.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="kubeconfig (default: $KUBECONFIG, ~/.kube/config, or in a pod its service account)",
    )


def add_timeout(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --timeout."""
    parser.add_argument(
        "--timeout",
        type=duration,
        default=default,
        metavar="TIME",
        help="the longest wait, such as 90s, 30m, 12h or 1h30m (default: %(default)s). After it the operator continues "
        "its work",
    )


def positive(text: str) -> int:
    """A number above 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def version_name(text: str) -> str:
    """The name of a ModelVersion. Raises ArgumentTypeError."""
    if len(text) > MAX_NAME or not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a ModelVersion")
    return text


def duration(text: str) -> float:
    """Seconds of a duration. Raises ArgumentTypeError.

    >>> duration("1h30m")
    5400.0
    """
    parts = _DURATION.fullmatch(text)
    numbers = [int(part or 0) for part in parts.groups()] if parts else []
    seconds = float(sum(number * unit for number, unit in zip(numbers, _UNITS.values(), strict=False)))
    if not 0 < seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m or 1h30m, of at most 30d")
    return seconds
