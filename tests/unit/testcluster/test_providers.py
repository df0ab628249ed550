"""Which cluster a command is about."""

import pytest

from testcluster import local, providers
from testcluster.console import Error


def test_a_cluster_that_is_asked_for_is_used() -> None:
    assert providers.choose("local") is local


def test_an_unknown_kind_of_cluster_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Error, match=r"CLUSTER=minikube.*current, kind, local"):
        providers.choose("minikube")
