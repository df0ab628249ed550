"""Progress is read from metrics, shown for people, and written no more often than one would look."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import LastCheckpoint, Progress
from driftloop.contract.names import MEMORY_KINDS, Metric
from driftloop.contract.result import ValidationResult
from driftloop.controller.kinds.finetunejob.progress import (
    done,
    duration,
    newer,
    read,
    stopped_early,
    validation_message,
)
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.samples import Sample
from unit.controller.stages import NOW, trained

METRICS = {
    Metric.TRAIN_STEP: 30.0,
    Metric.TRAIN_TOTAL_STEPS: 90.0,
    Metric.TRAIN_LOSS: 0.123456,
    Metric.TRAIN_TOKENS_PER_SECOND: 1234.6,
    Metric.TRAIN_ETA_SECONDS: 65.2,
    Metric.TRAIN_START_SECONDS: 23.4,
}


REWARD = {"accuracy": 0.875, "margin": -0.25}
PEAK = [
    Sample({"__name__": Metric.TRAIN_PEAK_MEMORY, "kind": kind}, value)
    for kind, value in {"allocated": 62.0 * 2**30, "reserved": 65.0 * 2**30, "negative": -1, "resident": 0}.items()
]


def samples(metrics: dict[str, float]) -> list[Sample]:
    return [Sample({"__name__": name}, value) for name, value in metrics.items()]


def at(seconds: int, percent: int, total: int = 100) -> Progress:
    return Progress(
        step=percent, total_steps=total, percent=percent, updated=timestamp(NOW + timedelta(seconds=seconds))
    )


def test_metrics_become_progress() -> None:
    found = read([*samples(METRICS), *PEAK], NOW)
    assert found == Progress(
        step=30,
        total_steps=90,
        percent=33,
        eta_seconds=65,
        eta="1m05s",
        start_seconds=23,
        loss="0.1235",
        tokens_per_second=1235,
        peak_memory_bytes_per_worker={"allocated": 62 << 30, "reserved": 65 << 30},
        peak_memory="62.00 GiB allocated, 65.00 GiB reserved",
        updated="2026-01-01T12:00:00Z",
    )


def test_the_utilisation_of_the_gpus_is_shown_where_it_is_known() -> None:
    found = read(samples(METRICS | {Metric.TRAIN_MFU: 0.41234}), NOW)
    assert found is not None
    assert found.model_flops_utilisation == "0.4123"
    assert done(trained().model_copy(update={"mfu": 0.4})).model_flops_utilisation == "0.4"
    assert done(trained()).model_flops_utilisation is None


def test_skipped_steps_are_counted_and_written_at_once() -> None:
    found = read(samples(METRICS | {Metric.TRAIN_SKIPPED_STEPS: 2.0}), NOW)
    assert found is not None
    assert found.skipped_steps == 2
    fresh = found.model_copy(update={"skipped_steps": 3, "updated": timestamp(NOW + timedelta(seconds=10))})
    assert newer(found, fresh) == fresh


VALIDATION = [
    Sample({"__name__": Metric.TRAIN_VALIDATION_LOSS, "kind": kind}, value)
    for kind, value in {"last": 1.25, "best": 1.0}.items()
]


def test_validation_losses_and_the_best_step_are_shown() -> None:
    found = read([*samples(METRICS | {Metric.TRAIN_BEST_STEP: 20.0}), *VALIDATION], NOW)
    assert found is not None
    assert (found.validation_loss, found.best_validation_loss, found.best_step) == ("1.25", "1", 20)
    before = read(samples(METRICS | {Metric.TRAIN_BEST_STEP: 0.0}), NOW)
    assert before is not None
    assert (before.validation_loss, before.best_validation_loss, before.best_step) == (None, None, None)


def test_a_training_that_stopped_early_says_how_far_it_came() -> None:
    validation = ValidationResult(loss=1.25, best_loss=1.0, best_step=20, exported_step=20)
    result = trained().model_copy(update={"steps": 40, "total_steps": 160, "validation": validation})
    shown = done(result)
    assert (shown.step, shown.total_steps, shown.percent, shown.best_step) == (40, 160, 25, 20)
    assert stopped_early(result)
    assert "after 40 of 160 steps" in validation_message(result)
    assert "weights of step 20, where the validation loss was 1" in validation_message(result)
    whole = result.model_copy(update={"steps": 160, "validation": validation.model_copy(update={"exported_step": 160})})
    assert not stopped_early(whole)
    assert validation_message(whole) == ""


def test_the_number_of_nodes_is_shown_and_a_change_is_written_at_once() -> None:
    found = read(samples(METRICS | {Metric.TRAIN_NODES: 2.0}), NOW)
    assert found is not None
    assert found.nodes == 2
    fewer = found.model_copy(update={"nodes": 1, "updated": timestamp(NOW + timedelta(seconds=10))})
    assert newer(found, fewer) == fewer
    fixed = read(samples(METRICS | {Metric.TRAIN_NODES: 0.0}), NOW)
    assert fixed is not None
    assert fixed.nodes is None


CHECKPOINT = {Metric.TRAIN_CHECKPOINT_STEP: 20.0, Metric.TRAIN_CHECKPOINT_TIME: NOW.timestamp() - 60.4}


def test_the_last_checkpoint_has_its_step_and_time() -> None:
    found = read(samples(METRICS | CHECKPOINT), NOW)
    assert found is not None
    assert found.checkpoint == LastCheckpoint(step=20, time=timestamp(NOW - timedelta(seconds=60)))


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf, 0.0, 1e16])
@pytest.mark.parametrize("metric", CHECKPOINT)
def test_a_checkpoint_without_a_valid_step_and_time_is_none(metric: str, value: float) -> None:
    found = read(samples(METRICS | CHECKPOINT | {metric: value}), NOW)
    assert found is not None
    assert found.checkpoint is None


def test_a_pod_that_has_just_started_hides_no_checkpoint() -> None:
    last = LastCheckpoint(step=20, time=timestamp(NOW))
    old = at(0, 20).model_copy(update={"checkpoint": last})
    found = newer(old, at(60, 0))
    assert found is not None
    assert (found.step, found.checkpoint) == (0, last)


def test_before_the_first_step_neither_loss_nor_eta_is_claimed() -> None:
    found = read(
        samples(METRICS | {Metric.TRAIN_STEP: 0.0, Metric.TRAIN_LOSS: 0.0, Metric.TRAIN_ETA_SECONDS: 0.0}), NOW
    )
    assert found is not None
    assert (found.percent, found.loss, found.eta) == (0, None, None)


@pytest.mark.parametrize("missing", [Metric.TRAIN_STEP, Metric.TRAIN_TOTAL_STEPS])
def test_without_steps_there_is_no_progress(missing: str) -> None:
    assert read(samples({name: value for name, value in METRICS.items() if name != missing}), NOW) is None


def test_a_loss_that_is_no_number_is_left_out() -> None:
    found = read(samples({name: value for name, value in METRICS.items() if name != Metric.TRAIN_LOSS}), NOW)
    assert found is not None
    assert found.loss is None


@given(values=st.lists(st.floats(), min_size=len(METRICS), max_size=len(METRICS)))
def test_whatever_a_pod_reports_percent_is_between_0_and_100(values: list[float]) -> None:
    found = read(samples(dict(zip(METRICS, values, strict=True))), NOW)
    assert found is None or 0 <= found.percent <= 100


@given(loss=st.floats(), pace=st.floats())
def test_whatever_training_ends_with_is_shown_or_left_out(loss: float, pace: float) -> None:
    found = done(trained().model_copy(update={"loss": loss, "tokens_per_second": pace}))
    assert found.percent == 100
    assert found.loss not in ("nan", "inf", "-inf")


@given(values=st.dictionaries(st.sampled_from([*MEMORY_KINDS, "other", ""]), st.floats()))
def test_whatever_a_pod_reports_of_its_memory_the_status_accepts_it(values: dict[str, float]) -> None:
    peak = [Sample({"__name__": Metric.TRAIN_PEAK_MEMORY, "kind": kind}, value) for kind, value in values.items()]
    found = read([*samples(METRICS), *peak], NOW)
    assert found is not None
    shown = found.peak_memory_bytes_per_worker
    assert shown is None or (set(shown) <= set(MEMORY_KINDS) and all(0 < size <= 10**15 for size in shown.values()))
    assert (found.peak_memory is None) == (shown is None)
    assert len(found.peak_memory or "") <= 64


def test_a_finished_training_keeps_its_peak() -> None:
    result = trained().model_copy(update={"peak_memory_bytes_per_worker": {"resident": 3 << 29}})
    assert done(result).peak_memory_bytes_per_worker == {"resident": 3 << 29}
    assert done(result).peak_memory == "1.50 GiB resident"
    assert done(trained()).peak_memory is None


@pytest.mark.parametrize(
    ("old", "new", "written"),
    [
        (at(0, 10), at(10, 14), False),
        (at(0, 10), at(10, 15), True),
        (at(0, 10), at(30, 11), True),
        (at(0, 97), at(10, 100), True),
        (at(0, 10), at(10, 10, total=200), True),
    ],
)
def test_status_changes_at_five_percent_or_half_a_minute(old: Progress, new: Progress, written: bool) -> None:
    assert newer(old, new) == (new if written else old)


def test_no_reading_keeps_the_last_one() -> None:
    assert newer(at(0, 10), None) == at(0, 10)
    assert newer(None, at(0, 10)) == at(0, 10)
    assert newer(None, None) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (65, "1m05s"), (3900, "1h05m"), (183_600, "2d03h")]
)
def test_durations_show_their_two_largest_units(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_the_reward_of_pairs_is_shown_during_and_after_training() -> None:
    reward = [Sample({"__name__": Metric.TRAIN_REWARD, "kind": kind}, value) for kind, value in REWARD.items()]
    running, ended = read([*samples(METRICS), *reward], NOW), done(trained().model_copy(update={"reward": REWARD}))
    for found in (running, ended):
        assert found is not None
        assert (found.reward_accuracy, found.reward_margin) == ("0.875", "-0.25")
