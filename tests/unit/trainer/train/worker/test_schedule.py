import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.train.worker.schedule import Scheduler, learning_rate_factor

KINDS = st.sampled_from(["linear", "cosine", "constant", "one_cycle"])


@given(KINDS, st.integers(1, 300), st.floats(0, 1))
def test_the_factor_is_a_share_that_rises_then_falls(kind: Scheduler, total: int, warmup: float) -> None:
    factors = [learning_rate_factor(kind, step, total, warmup) for step in range(total)]
    peak = max(range(total), key=factors.__getitem__)
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_one_cycle_follows_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=1000, pct_start=0.3)
    for step in range(1000):
        assert learning_rate_factor("one_cycle", step, 1000, 0.3) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=0.01
        )
        optimizer.step()
        scheduler.step()
