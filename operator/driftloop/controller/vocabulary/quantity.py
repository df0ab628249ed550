"""Kubernetes quantities as numbers. Pure."""

from kubernetes.utils import parse_quantity


def quantity(text: str) -> int:
    """`4`, `1500m`, `80Gi` or `1e9` as a number, rounded down. Raises ValueError."""
    return int(parse_quantity(text))
