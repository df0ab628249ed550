"""No client owns the average of the requests that count."""

from collections import Counter
from random import Random

import pytest

from driftloop_server.proxy.weights import LARGEST, LEAST, Weights


def counted(clients: dict[str, float], requests: int = 4000) -> Counter[str]:
    """Which clients' requests count, of those after the first ones; `clients`: their shares of all requests."""
    random, weights = Random(1), Weights()
    names = random.choices(list(clients), list(clients.values()), k=requests)
    return Counter([name for name in names if weights.counts(name)][-requests // 10 :])


def others(number: int, share: float) -> dict[str, float]:
    return {f"other-{index}": share / number for index in range(number)}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_client_with_most_requests_has_a_quarter_of_those_that_count(share: float) -> None:
    found = counted({"heavy": share} | others(20, 1 - share))
    assert found["heavy"] / found.total() <= LARGEST + 0.05


def test_alike_clients_count_alike() -> None:
    found = counted(others(20, 1))
    assert found.total() == 400
    assert max(found.values()) < 3 * min(found.values())


@pytest.mark.parametrize("number", [1, 2, 4])
def test_few_clients_all_count(number: int) -> None:
    weights = Weights()
    assert all(weights.counts(f"client-{index % number}") for index in range(1000))


def test_a_canary_gets_a_quarter_of_all_requests_whoever_sends_them() -> None:
    weights, random = Weights(), Random(2)
    taken = [
        weights.counts("heavy" if random.random() < 0.96 else f"other-{random.randrange(10)}") for _ in range(8000)
    ]
    assert LEAST <= sum(taken[4000:]) / 4000 < LEAST + 0.1


def test_it_remembers_a_bounded_number_of_clients() -> None:
    weights = Weights()
    assert all(weights.counts(f"client-{index}") for index in range(5000))
    assert len(weights._arrived.numbers) <= 400
    assert len(weights._counted.numbers) <= 100
