import pytest

from driftloop_trainer.train.run import START
from driftloop_trainer.train.worker.meter import Meter, Step


def test_utilisation_is_the_share_of_the_peak_over_the_last_steps() -> None:
    meter = Meter(2, peak_flops=100.0)
    meter.add(Step(1.0, seconds=2.0, tokens=10, flops=50.0))
    meter.add(Step(1.0, seconds=3.0, tokens=10, flops=100.0))
    assert meter.progress(START, START).mfu == pytest.approx(150 / 5 / 100)
    assert (meter.trained(START).mfu or 0) > 0


def test_utilisation_is_absent_without_a_known_peak() -> None:
    meter = Meter(2)
    meter.add(Step(1.0, seconds=2.0, tokens=10, flops=50.0))
    assert meter.progress(START, START).mfu is None
    assert meter.trained(START).mfu is None
