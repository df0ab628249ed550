"""A crash after any write, a doubled event, a stale cache: the end is that of the clean run."""

from typing import Any

import pytest

from driftloop.contract.result import AnyResult
from driftloop.controller.kinds.finetunejob.decide import decide
from driftloop.controller.vocabulary.plan import Apply, Create, Obj, Plan
from unit.controller.stages import NOW, SETTINGS, Cluster, job, observe_job, pod_of, prepared, terminated, trained

ENDS: list[tuple[str, AnyResult]] = [("prepare", prepared()), ("train", trained())]


class Crash(Exception):
    """The operator died."""


class Operator:
    """Executes plans, and dies after a given number of writes (a status counts as one)."""

    def __init__(self, survive: int | None = None) -> None:
        self.body = job()
        self.cluster = Cluster()
        self.status: Obj = {}
        self.statuses = 0
        self.left = survive

    def reconcile(self, times: int = 2) -> None:
        for _ in range(times):
            try:
                self._execute(decide(observe_job(self.body, self.cluster, self.status), SETTINGS, NOW))
            except Crash:
                self.left = None  # it starts again, and lives

    def run(self, times: int = 2) -> None:
        self.reconcile(times)
        for end in ENDS:
            self.cluster.finish(*end)
            self.reconcile(times)
        self.reconcile(times)

    def run_short_of_memory(self, times: int = 4) -> None:
        """The same, but the kernel kills a pod of the first attempt."""
        self.reconcile(times)
        self.cluster.finish(*ENDS[0])
        self.reconcile(times)
        train = self.cluster.job("train")
        self.cluster.pods.append(pod_of(train, terminated("train", 137, reason="OOMKilled"), phase="Failed", index=1))
        self.reconcile(times)
        self.cluster.finish(*ENDS[1])
        self.reconcile(times)

    def end(self) -> tuple[Any, ...]:
        return sorted(self.cluster.objects), self.status

    def _execute(self, plan: Plan) -> None:
        for action in plan.writes:
            before = len(self.cluster.writes)
            self.cluster.take(Plan(actions=(action,)))
            self._count(len(self.cluster.writes) - before)
        if plan.status is not None and plan.status != self.status:
            self.status = plan.status
            self.statuses += 1
            self._count(1)

    def _count(self, writes: int) -> None:
        if self.left is not None and writes:
            self.left -= writes
            if self.left <= 0:
                raise Crash


def clean() -> Operator:
    operator = Operator()
    operator.run()
    return operator


CLEAN = clean()
WRITES = len(CLEAN.cluster.writes) + CLEAN.statuses


@pytest.mark.parametrize("survive", range(1, WRITES + 1))
def test_a_crash_after_any_write_ends_as_the_clean_run_and_starts_nothing_twice(survive: int) -> None:
    operator = Operator(survive)
    operator.run(times=3)
    assert operator.left is None
    assert operator.end() == CLEAN.end()
    assert sorted(operator.cluster.writes) == sorted(CLEAN.cluster.writes)


def test_a_crash_at_any_write_changes_nothing_in_an_attempt_with_less_memory() -> None:
    clean = Operator()
    clean.run_short_of_memory()
    assert clean.status["attempt"] == 2
    for survive in range(1, len(clean.cluster.writes) + clean.statuses + 1):
        operator = Operator(survive)
        operator.run_short_of_memory(times=5)
        assert operator.left is None
        assert operator.end() == clean.end()
        assert sorted(operator.cluster.writes) == sorted(clean.cluster.writes)


def test_doubled_events_write_nothing_more() -> None:
    operator = Operator()
    operator.run(times=7)
    assert (operator.end(), operator.statuses) == (CLEAN.end(), CLEAN.statuses)


def test_a_job_costs_a_stated_number_of_writes() -> None:
    created = [write for write in CLEAN.cluster.writes if write.startswith("write")]
    assert (len(created), CLEAN.statuses) == (6, 3)


def test_a_cache_that_lags_behind_every_write_makes_nothing_twice() -> None:
    operator = Operator()
    operator.reconcile()
    operator.cluster.finish(*ENDS[0])
    seen = observe_job(operator.body, operator.cluster, operator.status)
    for _ in range(3):  # the same observation again and again: none of our writes came back yet
        operator._execute(decide(seen, SETTINGS, NOW))
    jobs = operator.cluster.of_kind("Job")
    assert len(jobs) == 2
    plans = [decide(seen, SETTINGS, NOW) for _ in range(2)]
    assert plans[0] == plans[1]
    assert all(isinstance(action, Apply | Create) for action in plans[0].actions)
