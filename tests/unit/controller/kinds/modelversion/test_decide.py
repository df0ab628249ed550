"""A ModelVersion is evaluated against the stable version, judged once, and protected while it serves."""

from datetime import timedelta
from typing import Any

import pytest

from driftloop.contract.result import AnchorResult, AnyResult, ApiCheck, EvaluateResult, StageError, encode
from driftloop.contract.task import AnswerTask, EvaluateTask
from driftloop.controller.kinds.groups import groups_of
from driftloop.controller.kinds.modelversion.decide import decide
from driftloop.controller.pods import jobs
from driftloop.controller.pods.group import peers
from driftloop.controller.vocabulary.labels import APPROVE_VERSION, ARM, IN_USE, RETRY, STAGE, VERSION
from driftloop.controller.vocabulary.plan import Apply, Create, Delete, Key, Label, Obj, Plan
from unit.controller.stages import (
    NOW,
    SETTINGS,
    Cluster,
    answered,
    approved,
    deployment,
    digest,
    evaluated,
    observe_version,
    pod_of,
    prepared,
    service,
    terminated,
    version,
)

LATER = "2026-01-01T11:30:00Z"
DESK = service()
STABLE = approved(version("support-1", "1"))
FLOOR = {"suites": [{"name": "new", "kind": "floor", "uri": "pvc://shared/new.jsonl", "minimum": 0.9}]}
SERVED: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, "support-1"),)}


def asked(job: Obj) -> str:
    match jobs.task_of(job):
        case AnswerTask(arm=arm):
            return arm.version
        case EvaluateTask(candidate=candidate, baseline=baseline):
            return f"{candidate.version} against {baseline.version if baseline else 'nothing'}"
    raise AssertionError(job)


class Run:
    """A version and its cluster: each step observes, decides, executes."""

    def __init__(self, **spec: Any) -> None:
        self.body = version("support-2", "2", LATER, **spec)
        self.cluster = Cluster()
        self.status: Obj = {}
        self.reasons: list[str] = []

    def step(self, after: float = 0, **observed: Any) -> Plan:
        observed = {"versions": (STABLE, self.body)} | observed
        found = observe_version(self.body, self.cluster, self.status, **observed)
        plan = decide(found, SETTINGS, NOW + timedelta(seconds=after))
        self.cluster.take(plan)
        self.status = plan.status or self.status
        self.reasons += [event.reason for event in plan.events]
        return plan

    def begin(self, **observed: Any) -> Plan:
        """Step until the version itself is asked: the stable one answers before it, where there is one."""
        plan = self.step(**observed)
        task = jobs.task_of(self.cluster.job("evaluate"))
        if isinstance(task, AnswerTask):
            self.cluster.finish("evaluate", answered(task.arm.digest))
            plan = self.step(**observed)
        return plan

    @property
    def asked(self) -> list[str]:
        """What each Job asks, in the order of their names: a version, or one compared with another."""
        return [asked(job) for job in self.cluster.of_kind("Job")]

    @property
    def task(self) -> EvaluateTask:
        task = jobs.task_of(self.cluster.job("evaluate"))
        assert isinstance(task, EvaluateTask)
        return task

    def condition(self, type_: str) -> Obj:
        return next((entry for entry in self.status["conditions"] if entry["type"] == type_), {})


def test_the_client_is_the_only_container_of_both_jobs_so_that_they_end_with_it() -> None:
    run = Run()
    run.begin(**SERVED)
    for body in run.cluster.of_kind("Job"):
        pod = body["spec"]["template"]["spec"]
        assert [container["name"] for container in pod["containers"]] == ["evaluate"]
        assert [container["name"] for container in pod["initContainers"]] == ["fetch", "engine", "proxy"]


def test_a_version_that_keeps_the_stable_ones_accuracy_is_approved() -> None:
    run = Run()
    run.step(**SERVED)
    assert run.status["phase"] == "Evaluating"
    assert run.asked == ["support-1"]
    run.begin(**SERVED)
    assert run.asked == ["support-1", "support-2 against support-1"]
    arms = [job["metadata"]["labels"][ARM] for job in run.cluster.of_kind("Job")]
    assert arms == ["baseline", "candidate"]
    baseline = run.task.baseline
    assert baseline is not None
    assert (baseline.digest, baseline.answers_digest) == (digest("1"), answered(digest("1")).digest)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    assert run.status["phase"] == "Approved"
    assert run.status["baseline"] == {"version": "support-1", "digest": digest("1"), "service": "desk"}
    assert [gate["verdict"] for gate in run.status["gates"]] == ["Pass", "Pass", "Pass"]
    assert run.status["gateSummary"] == "3 of 3 passed"
    assert run.status["evidence"]["digest"] == digest("9")
    assert run.condition("Ready")["status"] == "True"
    assert run.reasons == ["Evaluating", "Approved"]


def test_only_the_candidates_client_gets_the_key_of_a_judge_and_the_serving_containers_never() -> None:
    judge = {"url": "https://judge.example.org/v1", "model": "big", "secretRef": {"name": "judge", "key": "token"}}
    plain = {"name": "old", "kind": "retention", "uri": "pvc://shared/old.jsonl"}
    judged = {"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl"}
    run = Run(evaluation={"suites": [plain, judged | {"metric": {"type": "judge", "judge": judge}}]})
    run.begin(**SERVED)
    key = {"name": "DRIFTLOOP_JUDGE_KEY_1", "valueFrom": {"secretKeyRef": {"name": "judge", "key": "token"}}}
    stable, candidate = (body["spec"]["template"]["spec"] for body in run.cluster.of_kind("Job"))
    assert key in candidate["containers"][0]["env"]
    for container in (*candidate["initContainers"], *stable["initContainers"], *stable["containers"]):
        assert "JUDGE" not in str(container.get("env"))


def test_a_version_that_forgot_is_rejected_and_says_where() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1"), correct=700))
    run.step(**SERVED)
    assert run.status["phase"] == "Rejected"
    entry = run.condition("Stalled")
    assert (entry["reason"], entry["message"][:9]) == ("Rejected", "new: Fail")


def test_without_a_stable_version_comparisons_do_not_apply() -> None:
    run = Run()
    run.step()
    assert run.task.baseline is None
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    gate = run.status["gates"][2]
    assert (gate["verdict"], "no InferenceService follows family support" in gate["message"]) == ("NotApplicable", True)


def test_a_version_without_suites_waits_for_a_person_and_may_be_approved_by_one() -> None:
    run = Run(evaluation={"storage": "pvc://shared/evaluations"})
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")).model_copy(update={"suites": []}))
    run.step()
    assert [gate["name"] for gate in run.status["gates"]] == ["digest", "api"]
    ready = run.condition("Ready")
    assert (run.status["phase"], ready["status"], ready["reason"]) == ("AwaitingApproval", "False", "AwaitingApproval")
    assert f"{APPROVE_VERSION}=support-2" in ready["message"]
    assert run.condition("Stalled") == {}
    run.body["metadata"]["annotations"] = {APPROVE_VERSION: "another"}
    run.step()
    assert run.status["phase"] == "AwaitingApproval"
    run.body["metadata"]["annotations"] = {APPROVE_VERSION: "support-2"}
    assert run.step().writes == ()
    assert (run.status["phase"], run.condition("Ready")["status"]) == ("Approved", "True")
    run.status = {}
    run.step()
    assert run.status["phase"] == "Approved"


@pytest.mark.parametrize("suites", [[], [{"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl"}]])
def test_what_no_suite_judged_awaits_approval_without_a_stable_version(suites: list[Obj]) -> None:
    run = Run(evaluation={"suites": suites})
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")).model_copy(update={"suites": []}))
    run.step()
    assert run.status["phase"] == "AwaitingApproval"


def test_beside_a_stable_version_nobody_approves_what_no_suite_judged() -> None:
    run = Run(evaluation={})
    run.body["metadata"]["annotations"] = {APPROVE_VERSION: "support-2"}
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")).model_copy(update={"suites": []}))
    run.step(**SERVED)
    assert run.status["phase"] == "AwaitingApproval"
    assert "no service uses it while support-1 serves" in run.condition("Ready")["message"]


def test_a_version_that_awaits_approval_is_compared_once_there_is_something_to_compare_with() -> None:
    run = Run()
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    assert run.status["phase"] == "AwaitingApproval"
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    assert run.status["phase"] == "Approved"


def test_a_settled_version_writes_nothing_more() -> None:
    run = Run()
    for _ in range(2):
        run.step(**SERVED)
        before, status = list(run.cluster.writes), run.status
        plan = run.step(after=3, **SERVED)
        assert (run.cluster.writes, run.status, plan.events) == (before, status, ())
        if run.status["phase"] == "Evaluating":
            run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))


def test_a_wiped_status_is_judged_again_by_the_same_evidence() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    before, writes = run.status, list(run.cluster.writes)
    run.status = {}
    run.step(**SERVED)
    assert (run.status, run.cluster.writes) == (before, writes)


def test_what_serves_keeps_its_judgement_though_its_status_was_wiped() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.status = {}
    promoted: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, "support-2"),)}
    run.step(**promoted)
    assert run.status["phase"] == "Approved"
    assert run.status["baseline"]["version"] == "support-1"
    assert run.asked == ["support-1", "support-2 against support-1"]


def test_a_candidate_is_evaluated_again_when_another_version_became_stable() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    other = approved(version("support-0", "0"))
    moved: dict[str, Any] = {
        "services": [DESK],
        "deployments": (deployment(DESK, "support-0"),),
        "versions": (STABLE, other, run.body),
    }
    run.step(**moved)
    assert run.status["phase"] == "Evaluating"
    assert sorted(run.asked) == ["support-0", "support-1", "support-2 against support-1"]


def test_an_older_version_keeps_its_judgement_when_a_newer_one_is_promoted() -> None:
    run = Run(evaluation=FLOOR)
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    newer = approved(version("support-3", "3", created="2026-01-01T11:45:00Z"))
    plan = run.step(services=[DESK], deployments=(deployment(DESK, "support-3"),), versions=(STABLE, run.body, newer))
    assert (run.status["phase"], plan.writes) == ("Approved", ())


def test_an_evaluation_against_what_is_no_longer_stable_is_stopped_before_the_next_begins() -> None:
    run = Run()
    run.step()
    plan = run.step(**SERVED)
    assert [type(action) for action in plan.writes] == [Delete, Apply, Create]
    assert [type(action) for action in plan.actions] == [Apply, Create]
    assert run.asked == ["support-1"]


def test_a_stable_version_that_is_gone_is_not_the_same_as_none() -> None:
    run = Run()
    plan = run.step(**SERVED, versions=(run.body,))
    assert (run.condition("Stalled")["reason"], plan.writes) == ("BaselineNotFound", ())


def test_of_two_stable_deployments_the_later_one_counts() -> None:
    run = Run()
    other = approved(version("support-0", "0"))
    deployments = (deployment(DESK, "support-1"), deployment(DESK, "support-0", since=LATER))
    run.step(services=[DESK], deployments=deployments, versions=(STABLE, other, run.body))
    assert run.asked == ["support-0"]


def test_a_foreign_deployment_makes_no_baseline() -> None:
    run = Run()
    foreign = deployment(service("other"), "support-1")
    run.step(services=[DESK], deployments=(foreign,))
    assert run.task.baseline is None


def test_a_missing_volume_is_named() -> None:
    run = Run()
    plan = run.step(claims={})
    assert (run.condition("Stalled")["reason"], plan.writes) == ("ClaimNotFound", ())
    assert "shared" in run.condition("Stalled")["message"]
    run.step()
    assert run.status["phase"] == "Evaluating"


@pytest.mark.parametrize("sidecar", ["fetch", "engine"])
def test_a_model_that_cannot_be_served_fails_at_once_and_its_pod_is_released(sidecar: str) -> None:
    run = Run()
    run.step()
    error = StageError(reason="DigestMismatch", message="model.safetensors is not what the manifest promises")
    ended = terminated(sidecar, 78, encode(error))
    status = {"name": sidecar, "lastState": ended["state"], "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    run.cluster.pods.append(pod_of(run.cluster.job("evaluate"), init=(status,)))
    assert run.step().writes == ()
    assert (run.status["phase"], run.condition("Stalled")["reason"]) == ("Failed", "DigestMismatch")
    # Once the judgement is written: after a crash in between it would begin anew.
    assert [type(action) for action in run.step().writes] == [Delete]
    assert run.step().writes == ()


def test_a_result_of_another_stage_judges_nothing() -> None:
    run = Run()
    run.step()
    run.cluster.finish("evaluate", prepared())
    run.step()
    assert (run.status["phase"], run.condition("Stalled")["reason"]) == ("Failed", "InvalidResult")


def test_a_model_other_than_the_versions_is_never_approved() -> None:
    run = Run()
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("6")))
    run.step()
    assert run.status["phase"] == "Rejected"


def test_uses_of_the_same_items_are_counted() -> None:
    run = Run()
    judged = version("support-0", "0") | {"status": {"phase": "Rejected"}}
    everything = (STABLE, judged, version("support-9", "9"), run.body)
    run.begin(versions=everything)
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step(versions=everything)
    assert run.status["gates"][2]["uses"] == 3  # this one, the stable one and the rejected one


def test_a_later_look_at_the_same_items_is_stricter_and_says_so() -> None:
    """The first candidate was rejected against the same stable version."""
    run = Run()
    plan = {"baseline": digest("1"), "suites": [{"name": "new", "look": 1, "alpha": "0.030396"}]}
    rejected = version("support-0", "0") | {"status": {"phase": "Rejected", "plan": plan}}
    observed: dict[str, Any] = SERVED | {"versions": (STABLE, rejected, run.body)}
    run.step(**observed)
    suite = {"name": "new", "delta": "0.0000", "look": 2, "alpha": "0.007599", "leastItems": 10, "enough": "Unknown"}
    assert run.status["plan"] == {"baseline": digest("1"), "suites": [suite]}  # before the evaluation runs
    run.begin(**observed)
    assert run.task.looks == {"new": 2}
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**observed)
    gate = run.status["gates"][2]
    assert (gate["look"], gate["alpha"], gate["uses"]) == (2, "0.007599", 3)
    assert "look 2 at these items may err in 0.76 %, all looks together in 5 %" in gate["message"]
    assert run.status["plan"]["suites"] == [suite]


def test_the_look_is_the_one_in_the_jobs_task_even_if_others_were_judged_meanwhile() -> None:
    run = Run()
    run.begin(**SERVED)
    run.status.pop("plan")
    plan = {"baseline": digest("1"), "suites": [{"name": "new", "look": 1, "alpha": "0.030396"}]}
    rejected = version("support-0", "0") | {"status": {"phase": "Rejected", "plan": plan}}
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED | {"versions": (STABLE, rejected, run.body)})
    assert run.status["gates"][2]["look"] == 1


def test_what_serves_is_labelled_and_told_by_whom() -> None:
    run = Run()
    key = Key("ModelVersion", "team", "support-2")
    plan = run.step(services=[DESK], deployments=(deployment(DESK, "support-2", role="candidate"),))
    assert Label(key, run.body["metadata"]["uid"], {IN_USE: "true"}) in plan.writes
    assert run.status["services"] == ["desk"]
    assert [group.fields for group in plan.beside if group.fields] == [("services",)]  # whatever becomes of its Job
    run.body["metadata"]["labels"] = {IN_USE: "true"}
    assert not [
        a for a in run.step(**SERVED | {"deployments": (deployment(DESK, "support-2"),)}).writes if isinstance(a, Label)
    ]
    plan = run.step()
    assert Label(key, run.body["metadata"]["uid"], {IN_USE: None}) in plan.writes
    assert run.status["services"] == []


def test_a_version_onto_which_a_served_adapter_is_merged_is_labelled() -> None:
    run = Run()
    label = Label(Key("ModelVersion", "team", "support-2"), run.body["metadata"]["uid"], {IN_USE: "true"})
    folder = run.body["spec"]["artefact"]["uri"]
    artefact = {"uri": "pvc://shared/v3", "digest": digest("3"), "bases": ["pvc://shared/v0", folder]}
    adapter, stranger = version("support-3", artefact=artefact), version("support-4")
    serving = (deployment(DESK, "support-3"),)
    assert label in run.step(deployments=serving, adapters=(adapter,)).writes
    assert run.status["services"] == []
    assert label not in run.step(deployments=serving, adapters=(stranger,)).writes
    assert label not in run.step(adapters=(adapter,)).writes  # nothing serves it any more


def test_the_label_follows_use_though_the_version_was_judged_long_ago() -> None:
    run = Run(evaluation=FLOOR)
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    plan = run.step(services=[DESK], deployments=(deployment(DESK, "support-2"),))
    assert [type(action) for action in plan.writes] == [Label]
    assert run.status["phase"] == "Approved"


def test_the_engine_is_the_one_that_will_serve() -> None:
    run = Run()
    vllm = service(engine={"type": "vllm", "image": "vllm:1", "gpus": 1})
    run.step(services=[vllm])
    containers = run.cluster.job("evaluate")["spec"]["template"]["spec"]["initContainers"]
    engine = next(container for container in containers if container["name"] == "engine")
    assert engine["image"] == "vllm:1"


def test_an_evaluation_waits_for_the_image_of_its_engine() -> None:
    run = Run()
    plan = run.step(services=[service(engine={"type": "vllm"})])
    assert [action for action in plan.writes if isinstance(action, Create)] == []
    [stalled] = [entry for entry in run.status["conditions"] if entry["type"] == "Stalled"]
    assert (run.status["phase"], stalled["reason"]) == ("Pending", "EngineNotPossible")
    assert "needs an image" in stalled["message"]


LARGE: Obj = {
    "parameters": 70_000_000_000,
    "dtype": "bfloat16",
    "layers": 80,
    "attentionHeads": 64,
    "keyValueHeads": 8,
    "cacheElements": 163_840,
    "contextLength": 8192,
}


def test_an_evaluation_takes_no_gpu_that_cannot_hold_the_version() -> None:
    run = Run(model=LARGE)
    vllm = service(engine={"type": "vllm", "image": "vllm:1", "gpus": 1})
    plan = run.step(services=[vllm], gpu_memory=(80 << 30,))
    assert [action for action in plan.writes if isinstance(action, Create)] == []
    stalled = run.condition("Stalled")
    assert stalled["reason"] == "EngineNotPossible"
    assert "it does not fit: engine.gpus: 1: of each GPU vllm may use 72.0 GiB" in stalled["message"]
    run.step(services=[vllm | {"spec": vllm["spec"] | {"engine": vllm["spec"]["engine"] | {"gpus": 4}}}])
    assert run.cluster.of_kind("Job")


def test_evidence_lies_beside_the_artefact_where_nothing_else_is_said() -> None:
    run = Run(evaluation={})
    run.step()
    assert run.task.output.startswith("pvc://shared/versions/evaluations/uid-support-2/")


def test_the_policy_lets_nobody_in_before_the_pod_is_there() -> None:
    run = Run()
    plan = run.step()
    kinds = [action.body["kind"] for action in plan.writes if isinstance(action, Create | Apply)]
    assert kinds == ["NetworkPolicy", "Job"]
    assert isinstance(plan.writes[-1], Create)


def test_no_pod_asks_for_more_gpus_than_a_serving_pod() -> None:
    """Both versions stood in one pod: with 8 GPUs it asked for 16, which no node has."""
    run, desk = Run(), service(engine={"type": "vllm", "image": "vllm:1", "gpus": 8})
    served = SERVED | {"services": [desk]}
    for expected in ("support-1", "support-2 against support-1"):
        run.step(**served)
        found = run.cluster.job("evaluate")
        pod = found["spec"]["template"]["spec"]
        gpus = [
            container["resources"]["limits"].get("nvidia.com/gpu")
            for container in (*pod["initContainers"], *pod["containers"])
        ]
        assert (asked(found), [count for count in gpus if count]) == (expected, ["8"])
        if asked(found) == "support-1":
            run.cluster.finish("evaluate", answered(digest("1")))
    working = [job for job in run.cluster.of_kind("Job") if not job.get("status")]
    assert len(working) == 1


def test_an_engine_over_several_pods_judges_with_its_workers_which_go_with_the_pod_that_asks() -> None:
    run, desk = Run(), service(engine={"type": "vllm", "image": "vllm:1", "gpus": 8, "nodes": 2})
    run.step(services=[desk])
    job = run.cluster.job("evaluate")
    [policy] = run.cluster.of_kind("NetworkPolicy")
    own = peers({VERSION: "support-2"}, "evaluate")
    assert (policy["spec"]["podSelector"], policy["spec"]["ingress"]) == (own, [{"from": [{"podSelector": own}]}])

    leader = pod_of(job)
    leader |= {"spec": {"nodeName": "node-1"}, "status": leader["status"] | {"podIP": "10.0.0.7"}}
    groups = groups_of(job["spec"]["template"], [leader], [])
    plan = run.step(services=[desk], pods=(leader,), groups=groups)
    [made] = [action.body for action in plan.writes if isinstance(action, Create) and action.body["kind"] == "Pod"]
    assert made["metadata"]["labels"][STAGE] == "evaluate-worker"
    message = run.condition("Reconciling")["message"]
    assert "(engine vllm, 8 GPUs in each of 2 pods): 0 of 2 pods of the group" in message

    ended = leader | {"status": leader["status"] | {"phase": "Succeeded"}}
    groups = groups_of(job["spec"]["template"], [ended], [made | {"metadata": made["metadata"] | {"uid": "u"}}])
    plan = run.step(services=[desk], pods=(ended,), groups=groups)
    assert [action.name for action in plan.writes if isinstance(action, Delete)] == [made["metadata"]["name"]]


def test_where_no_suite_compares_the_stable_version_is_asked_nothing() -> None:
    run = Run(evaluation=FLOOR)
    run.step(**SERVED)
    assert run.asked == ["support-2 against support-1"]
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    assert (run.status["phase"], run.status["baseline"]["version"]) == ("Approved", "support-1")


def test_a_stable_version_that_cannot_be_asked_fails_the_evaluation_and_its_pod_is_released() -> None:
    run = Run()
    run.step(**SERVED)
    error = StageError(reason="DigestMismatch", message="model.safetensors was changed")
    ended = terminated("fetch", 78, encode(error))
    status = {"name": "fetch", "lastState": ended["state"], "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    run.cluster.pods.append(pod_of(run.cluster.job("evaluate"), init=(status,)))
    run.step(**SERVED)
    assert (run.status["phase"], run.condition("Stalled")["reason"]) == ("Failed", "DigestMismatch")
    assert [type(action) for action in run.step(**SERVED).writes] == [Delete]


EVALUATION = {
    "suites": [{"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl", "maxTokens": 200}],
    "maxTokens": 64,
    "concurrency": 2,
    "queueName": "gpus.team",
    "startupTimeoutSeconds": 1800,
    "requestTimeoutSeconds": 900,
    "activeDeadlineSeconds": 7200,
    "engine": {"type": "vllm", "image": "vllm:2", "gpus": 2},
}


def test_what_an_evaluation_may_take_and_where_it_waits_can_be_said() -> None:
    run = Run(evaluation=EVALUATION)
    for _ in range(2):
        run.step(**SERVED)
        found = run.cluster.job("evaluate")
        task, pod = jobs.task_of(found), found["spec"]["template"]["spec"]
        assert isinstance(task, AnswerTask | EvaluateTask)
        assert (task.max_tokens, task.suites[0].max_tokens, task.concurrency) == (64, 200, 2)
        assert (task.startup_timeout_seconds, found["spec"]["activeDeadlineSeconds"]) == (1800, 7200)
        assert task.request_timeout_seconds == 900
        assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus.team"
        assert "suspend" not in found["spec"]
        engine = next(container for container in pod["initContainers"] if container["name"] == "engine")
        assert (engine["image"], engine["resources"]["limits"]["nvidia.com/gpu"]) == ("vllm:2", "2")
        if isinstance(task, AnswerTask):
            run.cluster.finish("evaluate", answered(digest("1")))
    assert "engine vllm, 2 GPUs" in run.condition("Reconciling")["message"]


def test_a_version_that_nobody_gave_an_engine_says_on_which_it_is_asked() -> None:
    run = Run()
    run.step()
    message = run.condition("Reconciling")["message"]
    assert "engine transformers, no GPU; no InferenceService follows the family: set evaluation.engine" in message


def test_every_container_of_an_evaluation_but_the_engine_has_limits() -> None:
    """A ResourceQuota on limits admits no pod with a container that has none."""
    run = Run()
    run.step()
    pod = run.cluster.job("evaluate")["spec"]["template"]["spec"]
    helpers = [c for c in (*pod["initContainers"], *pod["containers"]) if c["name"] != "engine"]
    assert [sorted(helper["resources"]["limits"]) for helper in helpers] == [["cpu", "memory"]] * 3


def test_a_candidate_is_evaluated_again_when_another_engine_will_serve_it() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    assert run.status["phase"] == "Approved"
    roomier = service(engine={"resources": {"limits": {"memory": "8Gi"}}})
    assert run.step(**SERVED | {"services": [roomier]}).writes == ()
    shorter = SERVED | {"services": [service(engine={"maxModelLen": 512})]}
    run.step(**shorter)
    assert run.status["phase"] == "Evaluating"
    run.cluster.finish("evaluate", answered(digest("1")))
    run.step(**shorter)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**shorter)
    assert run.status["phase"] == "Approved"


DOUBT = ApiCheck(passed=6, uncertain=["stream: whole 'a', streamed 'b'"])


def doubtful() -> EvaluateResult:
    return evaluated(digest("2"), digest("1")).model_copy(update={"api": DOUBT})


def test_answers_that_differ_by_chance_are_looked_at_again_a_few_times_and_then_by_a_person() -> None:
    run = Run()
    run.begin(**SERVED)
    seconds = 0.0
    for attempt, wait in ((1, 60), (2, 300)):
        # The Job ended an hour before NOW; its end is moved, so that the back-off is seen.
        run.cluster.finish("evaluate", doubtful(), ended=NOW + timedelta(seconds=seconds))
        plan = run.step(after=seconds, **SERVED)
        assert (run.status["phase"], run.condition("Reconciling")["reason"]) == ("Evaluating", "Undecided")
        assert plan.requeue_after == wait
        assert (plan.writes, len(run.asked)) == ((), attempt + 1)
        seconds += wait
        run.step(after=seconds, **SERVED)
        assert run.asked == ["support-1"] + ["support-2 against support-1"] * (attempt + 1)
    run.cluster.finish("evaluate", doubtful(), ended=NOW + timedelta(seconds=seconds))
    run.step(after=seconds, **SERVED)
    assert (run.status["phase"], run.condition("Stalled")["reason"]) == ("Failed", "Undecided")
    assert run.step(after=9_999, **SERVED).writes == ()
    run.body["metadata"]["annotations"] = {RETRY: "1"}
    run.step(after=10_000, **SERVED)
    assert run.status["phase"] == "Evaluating"
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(after=10_001, **SERVED)
    assert run.status["phase"] == "Approved"
    assert len({jobs_output(job) for job in run.cluster.of_kind("Job")}) == 5  # each try leaves evidence of its own


def jobs_output(job: Obj) -> str:
    task = jobs.task_of(job)
    assert isinstance(task, AnswerTask | EvaluateTask)
    return task.output


def test_another_look_that_agrees_approves() -> None:
    run = Run()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", doubtful())
    run.step(**SERVED)  # it ended an hour ago
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    run.step(**SERVED)
    assert run.status["phase"] == "Approved"


def test_a_version_that_could_not_be_judged_is_tried_again_when_asked_and_once_for_each_word() -> None:
    run = Run()
    run.step()
    error = StageError(reason="NotReady", message="it was not ready in 600 s")
    run.cluster.fail("evaluate", terminated("evaluate", 75, encode(error)), reason="BackoffLimitExceeded")
    run.step()
    assert run.status["phase"] == "Failed"
    run.body["metadata"]["annotations"] = {RETRY: "after the node came back"}
    run.step()
    assert run.status["phase"] == "Evaluating"
    run.cluster.fail("evaluate", terminated("evaluate", 75, encode(error)), reason="BackoffLimitExceeded")
    run.step()
    assert (run.status["phase"], run.status["retried"]) == ("Failed", "after the node came back")
    assert run.step().writes == ()


def test_the_end_of_the_evaluation_is_the_age_of_its_evidence() -> None:
    run = Run()
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    job = run.cluster.job("evaluate")
    job["metadata"]["creationTimestamp"] = "2026-01-01T11:31:00Z"
    ends = job["status"].pop("completionTime", None)
    run.step(after=600)
    assert run.status["evaluated"] == "2026-01-01T11:31:00Z"  # no end in the status yet: it must not look newer
    run.status, job["status"]["completionTime"] = {}, ends or "2026-01-01T11:40:00Z"
    run.step(after=900)
    assert run.status["evaluated"] == job["status"]["completionTime"]


def test_an_approved_version_is_evaluated_again_when_asked_and_once_for_each_word() -> None:
    run = Run(evaluation=FLOOR)
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    assert run.status["phase"] == "Approved"
    run.body["metadata"]["annotations"] = {RETRY: "too old"}
    run.step()
    assert run.status["phase"] == "Evaluating"
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    assert (run.status["phase"], run.status["retried"]) == ("Approved", "too old")
    assert run.step().writes == ()


def test_what_serves_is_not_evaluated_again_when_asked() -> None:
    run = Run(evaluation=FLOOR)
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    run.body["metadata"]["annotations"] = {RETRY: "1"}
    run.step(services=[DESK], deployments=(deployment(DESK, "support-2"),))
    assert run.status["phase"] == "Approved"


def test_what_was_compared_before_it_was_promoted_keeps_that_judgement() -> None:
    """Evaluated without a stable version, then against one, then promoted: the first finding must not come back."""
    run = Run()
    run.begin()
    run.cluster.finish("evaluate", evaluated(digest("2")))
    run.step()
    run.begin(**SERVED)
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("1")))
    later = run.cluster.job("evaluate")
    later["metadata"]["creationTimestamp"] = LATER
    run.status = {}
    run.step(services=[DESK], deployments=(deployment(DESK, "support-2"),))
    assert (run.status["phase"], run.status["baseline"]["version"]) == ("Approved", "support-1")


def test_an_older_version_that_could_not_be_judged_is_tried_again_too() -> None:
    run = Run(evaluation=FLOOR)
    run.step()
    error = StageError(reason="NotReady", message="it was not ready in 600 s")
    run.cluster.fail("evaluate", terminated("evaluate", 75, encode(error)), reason="BackoffLimitExceeded")
    newer = approved(version("support-3", "3", created="2026-01-01T11:45:00Z"))
    served: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, "support-3"),)}
    served["versions"] = (run.body, newer)
    run.step(**served)
    assert run.status["phase"] == "Failed"
    run.body["metadata"]["annotations"] = {RETRY: "1"}
    run.step(**served)
    assert (run.status["phase"], run.asked[-1]) == ("Evaluating", "support-2 against support-3")
    run.cluster.finish("evaluate", evaluated(digest("2"), digest("3")))
    run.step(**served)
    assert run.status["phase"] == "Approved"


OLD = {"name": "new", "kind": "retention", "uri": "pvc://shared/new.jsonl", "totalDelta": 0.1}
SINCE_ZERO = {"anchor": {"version": "support-0", "digest": digest("0")}, "suites": []}
ZERO = approved(version("support-0", "0"))
LATER_STABLE = version("support-1", "1") | {"status": {"phase": "Approved", "plan": SINCE_ZERO}}


class AnchoredRun(Run):
    """A version whose stable version was compared with the anchor support-0."""

    def __init__(self, **suite: Any) -> None:
        super().__init__(evaluation={"suites": [OLD | suite], "storage": "pvc://shared/evaluations"})
        self.observed: dict[str, Any] = SERVED | {"versions": (ZERO, LATER_STABLE, self.body)}

    def evaluate(self, lost: int) -> None:
        """Let all three answer. Of 1,000 items `lost` are lost against the anchor."""
        for character in ("1", "0"):
            self.step(**self.observed)
            self.cluster.finish("evaluate", answered(digest(character)))
        self.step(**self.observed)
        found = evaluated(digest("2"), digest("1"), correct=900)
        anchor = AnchorResult(correct=900 - 10 + lost, gained=10, lost=lost, error=0.008)
        suites = [found.suites[0].model_copy(update={"anchor": anchor})]
        found = found.model_copy(update={"suites": suites, "anchor_digest": digest("0")})
        self.cluster.finish("evaluate", found)
        self.step(**self.observed)


def test_the_anchor_is_asked_after_the_stable_version_and_before_the_candidate() -> None:
    run = AnchoredRun()
    run.evaluate(lost=40)
    assert sorted(run.asked) == ["support-0", "support-1", "support-2 against support-1"]
    assert {job["metadata"]["labels"][ARM] for job in run.cluster.of_kind("Job")} == {"baseline", "anchor", "candidate"}
    assert (run.status["phase"], run.status["plan"]["anchor"]) == ("Approved", SINCE_ZERO["anchor"])
    anchor = run.status["gates"][2]["anchor"]
    assert (anchor["version"], anchor["totalDelta"], anchor["look"]) == ("support-0", "0.1000", 1)
    assert (
        run.status["gateSummary"] == f"3 of 3 passed; new: at least {anchor['left']} of 0.1000 is left since support-0"
    )


def test_a_version_that_uses_up_the_total_is_rejected_though_it_is_as_good_as_the_stable_one() -> None:
    run = AnchoredRun()
    run.evaluate(lost=110)
    assert run.status["phase"] == "Rejected"
    assert run.status["gateSummary"].startswith("new: Fail: against the anchor (support-0): 10 gained, 110 lost")


def test_an_anchor_that_is_the_stable_version_is_asked_once() -> None:
    run = AnchoredRun()
    run.observed = SERVED | {"versions": (STABLE, run.body)}
    run.begin(**run.observed)
    assert run.asked == ["support-1", "support-2 against support-1"]
    task = run.task
    assert task.anchor is not None
    assert task.baseline is not None
    assert (task.anchor.answers, task.anchor_looks) == (task.baseline.answers, {"new": 1})


def after_another(**suite: Any) -> AnchoredRun:
    """A run of suite `new` with these settings, after another version stored the anchor's answers to items d."""
    first, second = AnchoredRun(digest=digest("d")), AnchoredRun(**suite)
    first.evaluate(lost=40)
    other = version("support-9", "9") | {"status": first.status}
    second.observed |= {"versions": (ZERO, LATER_STABLE, other, second.body)}
    second.step(**second.observed)
    second.cluster.finish("evaluate", answered(digest("1")))
    return second


def test_the_answers_of_the_anchor_are_used_again_by_the_next_version() -> None:
    run = after_another(digest=digest("d"), delta=0.04)
    run.step(**run.observed)
    assert run.asked == ["support-1", "support-2 against support-1"]
    anchor, stored = run.task.anchor, run.status["anchorAnswers"]
    assert anchor is not None
    assert (anchor.digest, anchor.answers, anchor.answers_digest) == (digest("0"), stored["uri"], stored["digest"])


@pytest.mark.parametrize("suite", [{"digest": digest("e")}, {"digest": digest("d"), "maxTokens": 7}, {}])
def test_answers_to_other_items_or_with_other_settings_are_not_used(suite: Obj) -> None:
    run = after_another(**suite)
    run.step(**run.observed)
    assert sorted(run.asked) == ["support-0", "support-1"]


def test_a_retry_asks_the_anchor_anew_as_stored_answers_may_be_gone() -> None:
    run = after_another(digest=digest("d"))
    run.body["metadata"]["annotations"] = {RETRY: "1"}
    run.step(**run.observed)
    assert sorted(run.asked) == ["support-0", "support-1"]


def test_answers_to_items_that_may_change_are_not_stored() -> None:
    run = AnchoredRun()
    run.evaluate(lost=40)
    assert "anchorAnswers" not in run.status


def test_nothing_is_evaluated_while_the_anchor_is_gone() -> None:
    run = AnchoredRun()
    plan = run.step(**SERVED | {"versions": (LATER_STABLE, run.body)})
    assert (run.condition("Stalled")["reason"], plan.writes) == ("AnchorNotFound", ())
    run.step(**run.observed)
    assert run.status["phase"] == "Evaluating"


def test_an_anchor_that_cannot_be_asked_fails_the_evaluation_and_is_named() -> None:
    run = AnchoredRun()
    run.step(**run.observed)
    run.cluster.finish("evaluate", answered(digest("1")))
    run.step(**run.observed)
    run.cluster.finish("evaluate", StageError(reason="StorageUnreadable", message="gone"))
    run.step(**run.observed)
    assert run.status["phase"] == "Failed"
    assert run.condition("Stalled")["message"].startswith("the anchor support-0 could not be asked: gone")


def test_the_anchor_of_what_serves_is_labelled_as_the_next_evaluation_needs_it() -> None:
    anchor = Run()
    anchor.body = ZERO
    label = Label(Key("ModelVersion", "team", "support-0"), ZERO["metadata"]["uid"], {IN_USE: "true"})
    assert label in anchor.step(**SERVED | {"versions": (ZERO, LATER_STABLE)}).writes
    assert label not in anchor.step(**SERVED | {"versions": (ZERO, STABLE)}).writes


def run_through(survive: int | None) -> tuple[Obj, list[tuple[str, str]], list[str]]:
    """To the end; the operator dies once, with its `survive`-th write and before what follows it."""
    run, writes = Run(), 0
    for _ in range(12):
        found = observe_version(run.body, run.cluster, run.status, **SERVED, versions=(STABLE, run.body))
        plan = decide(found, SETTINGS, NOW)
        for action in plan.writes:
            run.cluster.take(Plan(actions=(action,)))
            if survive is not None and len(run.cluster.writes) >= survive > writes:
                break
        else:
            run.status = plan.status or run.status
        writes = len(run.cluster.writes)
        for job in run.cluster.of_kind("Job"):
            if not job.get("status") and run.status.get("phase") == "Evaluating":
                run.cluster.finish("evaluate", RESULTS[type(jobs.task_of(job))])
    return run.status, sorted(run.cluster.objects), run.cluster.writes


RESULTS: dict[Any, AnyResult] = {
    AnswerTask: answered(digest("1")),
    EvaluateTask: evaluated(digest("2"), digest("1")),
}
CLEAN = run_through(None)


@pytest.mark.parametrize("survive", range(1, len(CLEAN[2]) + 1))
def test_a_crash_after_any_write_ends_as_the_clean_run(survive: int) -> None:
    assert run_through(survive) == CLEAN


def test_the_clean_run_costs_three_objects_and_approves() -> None:
    assert (len(CLEAN[2]), CLEAN[0]["phase"]) == (3, "Approved")  # a policy, and a Job for each version


@pytest.mark.parametrize("answers", [0, 1])
def test_a_retry_asks_the_version_again_that_could_not_be_asked_once_for_each_word(answers: int) -> None:
    """The failed Job of the stable version or of the anchor was looked at again, and the retry had no effect."""
    run = AnchoredRun()
    run.step(**run.observed)
    for character in ("1",)[:answers]:
        run.cluster.finish("evaluate", answered(digest(character)))
        run.step(**run.observed)
    asked, error = len(run.asked), StageError(reason="NotReady", message="it was not ready in 600 s")
    for word in ("after the node came back", "again"):
        run.cluster.fail("evaluate", terminated("evaluate", 75, encode(error)), reason="BackoffLimitExceeded")
        run.step(**run.observed)
        assert run.status["phase"] == "Failed"
        assert run.step(**run.observed).writes == ()
        run.body["metadata"]["annotations"] = {RETRY: word}
        run.step(**run.observed)
        asked += 1
        assert (run.status["phase"], len(run.asked)) == ("Evaluating", asked)
    run.cluster.finish("evaluate", answered(digest("10"[answers])))
    run.step(**run.observed)
    assert (run.status["phase"], len(run.asked)) == ("Evaluating", asked + 1)
