"""Kubernetes quantities as numbers. Pure."""

from kubernetes.utils import parse_quantity


def quantity(text: str) -> int:
    """The number of a quantity, rounded down. Raises ValueError.

    >>> quantity("1500m"), quantity("80Gi"), quantity("1e9")
    (1, 85899345920, 1000000000)
    """
    return int(parse_quantity(text))
