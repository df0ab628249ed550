"""A stage's Job and pods are read as one outcome; the most telling cause wins, and only our own pods are heard."""

from datetime import timedelta
from typing import Any

import pytest

from driftloop.api.base import GROUP
from driftloop.contract.result import StageError, encode
from driftloop.controller.pods.outcome import (
    Broken,
    Done,
    Lost,
    Outcome,
    Running,
    delete_job,
    lost_pods,
    memory_shortage,
    outcome,
    refused_pods,
)
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.plan import Delete, Obj
from unit.controller.stages import EARLIER, NOW, pod_of, prepared, terminated, waiting

BAD_INPUT = encode(StageError(reason="ColumnNotFound", message="no column prompt"))
PASSING = encode(StageError(reason="StorageUnreadable", message="timed out"))


def job(*conditions: Obj, **status: Any) -> Obj:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "stage", "namespace": "team", "uid": "uid-job", "labels": {f"{GROUP}/stage": "train"}},
        "spec": {"parallelism": 2},
        "status": {"conditions": list(conditions), **status},
    }


def condition(type_: str, reason: str = "", message: str = "", at: str = EARLIER) -> Obj:
    return {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}


COMPLETE = job(condition("Complete"), completionTime=EARLIER)
FAILED = job(condition("Failed", "FailedIndexes", "some indexes failed"))


def found(body: Obj, *pods: Obj, after: float = 0) -> Outcome:
    return outcome(body, pods, "train", NOW + timedelta(seconds=after))


def test_the_result_is_the_termination_message_of_the_pod_that_ended_well() -> None:
    beaten = pod_of(COMPLETE, terminated("train", 143), phase="Failed", index=1)
    good = pod_of(COMPLETE, terminated("train", 0, encode(prepared())))
    assert found(COMPLETE, beaten, good) == Done(prepared())


def test_a_result_counts_as_soon_as_the_success_policy_is_met() -> None:
    body = job(condition("SuccessCriteriaMet"))
    assert found(body, pod_of(body, terminated("train", 0, encode(prepared())))) == Done(prepared())


def test_a_job_seen_complete_before_its_pod_is_waited_for_then_given_up() -> None:
    body = job(condition("Complete"), completionTime=timestamp(NOW))
    assert isinstance(found(body, after=29), Running)
    assert isinstance(found(body, after=31), Lost)


@pytest.mark.parametrize("message", ["", "Traceback: boom", "{}", '{"kind": "Train", "steps": -1}'])
def test_a_message_that_is_no_result_is_never_taken_for_one(message: str) -> None:
    ended = found(COMPLETE, pod_of(COMPLETE, terminated("train", 0, message)))
    assert isinstance(ended, Broken)
    assert ended.reason == "InvalidResult"


def test_pods_of_others_are_not_heard() -> None:
    foreign = pod_of(COMPLETE, terminated("train", 0, encode(prepared())))
    foreign["metadata"]["ownerReferences"][0]["uid"] = "other"
    assert isinstance(found(COMPLETE, foreign), Lost)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (terminated("train", 78, BAD_INPUT), "ColumnNotFound"),
        (terminated("train", 75, PASSING), "StorageUnreadable"),
        (terminated("train", 137, reason="OOMKilled"), "OOMKilled"),
        (terminated("train", 1, "first line\nValueError: boom"), "StageFailed"),
    ],
)
def test_the_pod_that_knows_why_speaks_for_those_that_were_told_to_stop(worse: Obj, reason: str) -> None:
    stopped = pod_of(FAILED, terminated("train", 143, at="2026-01-01T11:30:00Z"), phase="Failed", index=1)
    ended = found(FAILED, pod_of(FAILED, worse, phase="Failed"), stopped)
    assert isinstance(ended, Broken)
    assert ended.reason == reason


def test_wrong_input_outranks_what_might_pass() -> None:
    passing = pod_of(FAILED, terminated("train", 75, PASSING, at="2026-01-01T11:59:00Z"))
    assert found(FAILED, passing, pod_of(FAILED, terminated("train", 78, BAD_INPUT), index=1)) == Broken(
        "ColumnNotFound", "no column prompt"
    )


def test_of_equal_causes_the_last_one_is_told() -> None:
    pods = [
        pod_of(FAILED, terminated("train", 1, f"{at[11:16]}", at=at), index=index)
        for index, at in enumerate(("2026-01-01T11:20:00Z", "2026-01-01T11:40:00Z", "2026-01-01T11:30:00Z"))
    ]
    ended = found(FAILED, *pods)
    assert isinstance(ended, Broken)
    assert "11:40" in ended.message


def test_the_last_line_of_a_log_is_told_and_no_more() -> None:
    log = "secret: hunter2\n" + "x" * 10_000
    ended = found(FAILED, pod_of(FAILED, terminated("train", 1, log)))
    assert isinstance(ended, Broken)
    assert "hunter2" not in ended.message
    assert len(ended.message) < 600


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"level": "info", "message": "step 3/9 loss 0.5000"}', "step 3/9 loss 0.5000"),
        ('{"message": "broken", "error": "Traceback ...\\nValueError: hunter2"}', "broken"),
        ('{"message": "the first example:\\nhunter2\\nyes"}', "yes"),
        ('hunter2\\nthe rest of a line whose beginning is missing"}', "the rest of a line whose beginning is missing"),
        ('{"level": "info"}', '{"level": "info"}'),
        ("[1]", "[1]"),
        ("ValueError: 'a\\nb'", "ValueError: 'a\\nb'"),
    ],
)
def test_of_a_line_of_our_logs_the_messages_end_is_told(line: str, told: str) -> None:
    ended = found(FAILED, pod_of(FAILED, terminated("train", 1, f"hunter2\n{line}\n")))
    assert isinstance(ended, Broken)
    assert ended.message.endswith(f"exited with 1: {told}")


def test_an_eviction_is_told_by_the_kubelets_words() -> None:
    pod = pod_of(FAILED, phase="Failed")
    pod["status"] |= {"reason": "Evicted", "message": "the node was low on memory"}
    assert found(FAILED, pod) == Broken("Evicted", "the node was low on memory")


def test_a_failed_job_without_pods_has_the_jobs_own_reason_after_a_while() -> None:
    body = job(condition("Failed", "BackoffLimitExceeded", "too often", at=timestamp(NOW)))
    assert isinstance(found(body, after=5), Running)
    assert found(body, after=31) == Broken("BackoffLimitExceeded", "too often")


def test_the_deadline_is_the_reason_though_pods_were_killed_for_it() -> None:
    body = job(condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"))
    ended = found(body, pod_of(body, terminated("train", 1, "killed")))
    assert isinstance(ended, Broken)
    assert ended.reason == "DeadlineExceeded"


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_what_keeps_a_container_from_starting_is_told(reason: str) -> None:
    body = job()
    running = found(body, pod_of(body, waiting("train", reason, "pull access denied"), phase="Pending"))
    assert isinstance(running, Running)
    assert running.reason == reason
    assert "pull access denied" in running.message


def test_pods_that_fit_on_no_node_are_told() -> None:
    body = job()
    pod = pod_of(body, phase="Pending")
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu"
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]
    running = found(body, pod)
    assert isinstance(running, Running)
    assert (running.reason, message in running.message) == ("Unschedulable", True)


def test_a_job_that_its_queue_holds_back_is_queued() -> None:
    running = found(job(condition("Suspended")))
    assert isinstance(running, Running)
    assert running.reason == "Queued"


def test_a_job_that_gets_no_pod_says_where_the_reason_stands() -> None:
    body = job(startTime=timestamp(NOW))
    early, late = found(body, after=29), found(body, after=31)
    assert isinstance(early, Running)
    assert isinstance(late, Running)
    assert early.reason == "Starting"
    assert (late.reason, "kubectl describe job stage" in late.message) == ("PodsRefused", True)


@pytest.mark.parametrize("body", [job(), job(startTime=EARLIER, failed=1), job(condition("Suspended"))])
def test_a_job_that_did_not_start_or_waits_to_replace_a_pod_is_not_refused(body: Obj) -> None:
    running = found(body)
    assert isinstance(running, Running)
    assert running.reason != "PodsRefused"


def test_a_deployment_whose_pods_are_refused_has_the_api_servers_words() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    assert refused_pods({"status": {"conditions": [condition]}}) == Running("PodsRefused", "exceeded quota")
    assert refused_pods({"status": {"conditions": [condition | {"status": "False"}]}}) is None
    assert refused_pods({}) is None


def test_a_retry_tells_what_went_wrong_before() -> None:
    body = job()
    running = found(body, pod_of(body, terminated("train", 75, PASSING), phase="Failed"), pod_of(body, index=1))
    assert isinstance(running, Running)
    assert (running.reason, "StorageUnreadable: timed out" in running.message) == ("Retrying", True)


def test_a_retry_that_runs_is_nothing_to_tell() -> None:
    body = job()
    failed = pod_of(body, terminated("train", 75, PASSING), phase="Failed")
    running = found(body, failed, pod_of(body, index=0), pod_of(body, index=1))
    assert isinstance(running, Running)
    assert running.reason == "Running"


def test_a_sidecar_whose_input_is_wrong_ends_the_stage_though_it_is_started_again() -> None:
    body = job()
    status = {"name": "engine", "state": {"running": {}}, "lastState": terminated("engine", 78, BAD_INPUT)["state"]}
    assert found(body, pod_of(body, init=(status,))) == Broken("ColumnNotFound", "no column prompt")


def test_a_sidecar_that_crashed_once_ends_nothing() -> None:
    body = job()
    status = {"name": "engine", "state": {"running": {}}, "lastState": terminated("engine", 139)["state"]}
    assert isinstance(found(body, pod_of(body, init=(status,))), Running)


def test_a_job_that_is_being_deleted_has_no_outcome() -> None:
    body = COMPLETE | {"metadata": COMPLETE["metadata"] | {"deletionTimestamp": EARLIER}}
    ended = found(body, pod_of(body, terminated("train", 0, encode(prepared()))))
    assert isinstance(ended, Running)
    assert ended.reason == "Stopping"


OOM = terminated("train", 137, reason="OOMKilled", at="2026-01-01T11:10:00Z")
SHORT = encode(StageError(reason="OutOfMemory", message="rank 3: CUDA out of memory"))


def test_the_last_lack_of_memory_is_told_without_advice() -> None:
    body = job()
    killed = pod_of(body, OOM, phase="Failed")
    assert memory_shortage(body, [killed, pod_of(body, index=1)]) == Broken(
        "OOMKilled", "container train of stage-0-abcde used more memory than its limit"
    )
    later = pod_of(FAILED, terminated("train", 78, SHORT, at="2026-01-01T11:20:00Z"), phase="Failed", index=1)
    assert memory_shortage(FAILED, [later, killed]) == Broken("OutOfMemory", "rank 3: CUDA out of memory")


def test_what_an_attempt_could_not_hold_is_known_from_the_pod_even_if_the_kernel_killed_it() -> None:
    phase = '{"kind": "Phase", "phase": "export"}'
    killed = terminated("train", 137, phase, reason="OOMKilled")
    reported = terminated("train", 78, encode(StageError(reason="OutOfMemory", message="no memory", phase="loading")))
    newer = terminated("train", 78, encode(StageError(reason="OutOfMemory", message="no memory", phase="unheard of")))
    for status, expected in ((killed, "export"), (reported, "loading"), (newer, None), (OOM, None)):
        short = memory_shortage(FAILED, [pod_of(FAILED, status, phase="Failed")])
        assert short is not None
        assert short.phase == expected
    ended = found(FAILED, pod_of(FAILED, terminated("train", 137, phase), phase="Failed"))
    assert ended == Broken("StageFailed", "container train of stage-0-abcde exited with 137: during export")


@pytest.mark.parametrize(
    ("body", "pods"),
    [
        (job(), [("Failed", OOM), ("Running", {}), ("Running", {})]),
        (job(condition("Failed", "DeadlineExceeded")), [("Failed", OOM)]),
        (FAILED, [("Failed", OOM), ("Failed", terminated("train", 78, BAD_INPUT))]),
        (FAILED, [("Failed", terminated("train", 137))]),
    ],
    ids=["all run again", "no time is left", "the input is wrong", "killed for another reason"],
)
def test_an_end_with_another_cause_is_no_lack_of_memory(body: Obj, pods: list[tuple[str, Obj]]) -> None:
    found = [
        pod_of(body, *filter(None, [status]), phase=phase, index=index) for index, (phase, status) in enumerate(pods)
    ]
    assert memory_shortage(body, found) is None


def terminating(phase: str = "Running", tainted: bool = True) -> Obj:
    pod = pod_of(job(), phase=phase)
    pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    reason = "DeletionByTaintManager" if tainted else "EvictionByEvictionAPI"
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": reason}]
    return pod


@pytest.mark.parametrize(("tainted", "seconds"), [(True, 10), (False, 60)])
def test_a_pod_that_no_kubelet_ends_is_failed_after_its_grace(tainted: bool, seconds: int) -> None:
    pod = terminating(tainted=tainted)
    assert lost_pods([pod], NOW + timedelta(seconds=seconds - 1)) == ((), 1.0)
    failed, wait = lost_pods([pod], NOW + timedelta(seconds=seconds))
    assert ([action.uid for action in failed], wait) == ([pod["metadata"]["uid"]], None)
    assert "node-a" in failed[0].message


@pytest.mark.parametrize("pod", [terminating("Failed"), terminating("Succeeded"), pod_of(job())])
def test_pods_that_ended_or_live_are_left_alone(pod: Obj) -> None:
    assert lost_pods([pod], NOW + timedelta(days=1)) == ((), None)


def test_a_job_is_deleted_as_it_was_seen_since_a_result_may_have_come_meanwhile() -> None:
    metadata = {"namespace": "team", "name": "train", "uid": "u", "resourceVersion": "7"}
    assert delete_job({"metadata": metadata}) == Delete("batch/v1", "Job", "team", "train", "u", "7")
