"""How far a job has come is told by its Jobs and pods, each fact once."""

from typing import Any

from driftloop.controller.kinds.finetunejob.decide import decide
from driftloop.controller.kinds.finetunejob.stages import Stages, stages_of
from driftloop.controller.pods.outcome import Running
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.stages import NOW, SETTINGS, Cluster, job, observe_job, pod_of, prepared, trained


def seen(cluster: Cluster, status: Obj | None = None, **observed: Any) -> Stages:
    return stages_of(observe_job(job(), cluster, status, **observed), SETTINGS, NOW)


def run(cluster: Cluster, status: Obj | None = None) -> Obj | None:
    plan = decide(observe_job(job(), cluster, status), SETTINGS, NOW)
    cluster.take(plan)
    return plan.status


def test_a_stage_is_there_from_its_job_on_and_has_a_result_at_its_end() -> None:
    cluster = Cluster()
    assert (seen(cluster).prepare, seen(cluster).train) == (None, None)
    run(cluster)
    begun = seen(cluster).prepare
    assert begun is not None
    assert isinstance(begun.outcome, Running)
    cluster.finish("prepare", prepared())
    ended = seen(cluster).prepare
    assert ended is not None
    assert ended.result == prepared()
    run(cluster)
    cluster.finish("train", trained())
    train = seen(cluster).train
    assert train is not None
    assert train.result == trained()


def test_an_attempt_is_counted_only_after_a_suspension_that_was_written_down() -> None:
    assert seen(Cluster()).attempt == 1
    assert seen(Cluster(), {"attempt": 1, "phase": "Training"}).attempt == 1
    assert seen(Cluster(), {"attempt": 1, "phase": "Suspended"}).attempt == 2


def test_the_train_job_says_which_attempt_it_is_whatever_the_status_says() -> None:
    cluster = Cluster()
    run(cluster)
    cluster.finish("prepare", prepared())
    run(cluster, {"attempt": 1, "phase": "Suspended"})
    assert seen(cluster, {"attempt": 7, "phase": "Suspended"}).attempt == 2


def test_pods_are_left_over_while_they_run_without_their_job() -> None:
    cluster = Cluster()
    run(cluster)
    cluster.finish("prepare", prepared())
    run(cluster)
    pod = pod_of(cluster.job("train"))
    assert not seen(cluster, pods=(pod,)).left_over
    alone = (cluster.job("prepare"),)
    assert seen(cluster, pods=(pod,), jobs=alone).left_over
    assert not seen(cluster, pods=(pod | {"status": {"phase": "Succeeded"}},), jobs=alone).left_over
