"""The model's time goes to clients in equal parts, and no request waits for ever."""

import pytest

from driftloop_server.engine.turns import Pace, charge, pick, shares, weights


class Load:
    """Work that takes so many seconds a turn."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.spent: float | None = None
        self.had = 0.0


def run(loads: dict[str, tuple[Load, list[str]]], turns: int) -> dict[str, float]:
    """What part of the time each had."""
    works = [load for load, _ in loads.values()]
    parts = shares(weights([clients for _, clients in loads.values()]))
    for _ in range(turns):
        work = pick(works)
        work.had += work.seconds
        charge(work, parts[works.index(work)], work.seconds)
    total = sum(work.had for work in works)
    return {name: load.had / total for name, (load, _) in loads.items()}


def test_a_costly_request_takes_the_time_from_itself() -> None:
    eight = [f"client {i}" for i in range(8)]
    had = run({"short": (Load(0.003), eight), "long": (Load(0.9), ["hostile"])}, 20_000)
    assert had["short"] == pytest.approx(0.75 * 8 / 9 + 0.125, abs=0.02)


def test_a_burst_of_one_client_has_one_clients_part() -> None:
    eight = [f"client {i}" for i in range(8)]
    had = run({"running": (Load(0.003), eight), "read": (Load(0.02), ["hostile"] * 64)}, 20_000)
    assert had["running"] > 0.75


def test_one_among_many_still_gets_on() -> None:
    crowd = [f"client {i}" for i in range(500)]
    had = run({"crowd": (Load(0.01), crowd), "one": (Load(0.5), ["x"])}, 50_000)
    assert had["one"] == pytest.approx(0.125, abs=0.02)


def test_who_comes_late_has_no_credit() -> None:
    old, new = Load(1), Load(1)
    for _ in range(100):
        charge(pick([old]), 1.0, 1)
    order = []
    for _ in range(10):
        work = pick([old, new])
        order.append(work is new)
        charge(work, 0.5, 1)
    assert order[0]  # it begins at once
    assert sum(order) == 5


def test_pieces_last_about_two_steps() -> None:
    pace = Pace()
    assert pace.tokens(alone=True) == pace.tokens(alone=False) == 32  # nothing is known yet
    pace.read(64, 0.064)
    pace.stepped(0.1)
    assert pace.tokens(alone=False) == 200
    assert pace.tokens(alone=True) == 100
    pace.stepped(1e-6)
    pace.read(64, 64.0)
    assert pace.tokens(alone=False) == 32
    pace.stepped(1000)
    pace.read(64, 1e-3)
    assert pace.tokens(alone=False) == 2048
