"""A FineTuneJob goes through its stages, and every way to fail ends in a condition that says what to fix."""

import json
from datetime import timedelta
from typing import Any

import pytest

from driftloop.api.finetunejob import LastCheckpoint, Progress
from driftloop.api.modelversion import ModelVersion
from driftloop.contract.modelfolder import MAX_ADAPTERS
from driftloop.contract.result import AnyResult, StageError, ValidationResult, encode
from driftloop.contract.task import PrepareTask, TrainTask
from driftloop.controller.kinds.finetunejob.decide import decide
from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.labels import ATTEMPT, CHECKPOINT_STEP, CHECKPOINT_TIME, INDEX, TRIGGER
from driftloop.controller.vocabulary.plan import Annotate, Create, Delete, FailPod, Obj, Plan
from unit.controller.stages import (
    EARLIER,
    NOW,
    SETTINGS,
    UID,
    Cluster,
    approved,
    claim,
    deployment,
    digest,
    facts,
    job,
    observe_job,
    pod_of,
    prepared,
    service,
    terminated,
    trained,
    version,
    waiting,
)


class Run:
    """A job and its cluster: each step observes, decides, executes."""

    def __init__(self, **spec: Any) -> None:
        self.body = job(**spec)
        self.cluster = Cluster()
        self.status: Obj = {}
        self.reasons: list[str] = []

    def step(self, after: float = 0, **observed: Any) -> Plan:
        found = observe_job(self.body, self.cluster, self.status, **observed)
        plan = decide(found, SETTINGS, NOW + timedelta(seconds=after))
        self.cluster.take(plan)
        self.status = plan.status or self.status
        self.reasons += [event.reason for event in plan.events]
        return plan

    def until_training(self, **observed: Any) -> None:
        self.step(**observed)
        self.cluster.finish("prepare", prepared())
        self.step(**observed)

    def suspend(self, value: bool = True) -> None:
        self.body["spec"]["suspend"] = value
        self.body["metadata"]["generation"] += 1

    def condition(self, type_: str) -> Obj:
        return next((entry for entry in self.status["conditions"] if entry["type"] == type_), {})

    @property
    def version(self) -> Obj:
        return self.cluster.of_kind("ModelVersion")[0]


def test_an_engine_that_cannot_run_the_evaluation_is_named_before_the_data_are_read() -> None:
    run = Run(evaluation={"engine": {"type": "vllm"}, "suites": []})
    assert not run.step().actions
    stalled = run.condition("Stalled")
    assert (run.status["phase"], stalled["reason"]) == ("Pending", "EngineNotPossible")
    assert "evaluation.engine.type vllm needs an image, and there is none: set engine.image" in stalled["message"]

    run.body["spec"]["evaluation"]["engine"]["image"] = "vllm/vllm-openai:v1"
    run.step(after=60)
    assert run.status["phase"] == "Preparing"


def test_the_stages_follow_each_other_to_a_model_version() -> None:
    run = Run()
    run.step()
    assert run.status["phase"] == "Preparing"
    run.cluster.finish("prepare", prepared(dropped_rows=7, dropped={"emptyAnswer": 5, "dedupExact": 2}))
    run.step()
    assert (run.status["phase"], run.status["attempt"]) == ("Training", 1)
    assert run.status["plan"]["totalSteps"] == 63  # ceil(1000 rows * 2 epochs / 32)
    assert run.status["data"]["trainRows"] == 1000
    assert run.status["data"]["droppedRows"] == 7
    assert run.status["data"]["dropped"] == {"emptyAnswer": 5, "dedupExact": 2}
    run.cluster.finish("train", trained())
    run.step()
    assert (run.status["phase"], run.status["progress"]["percent"]) == ("Succeeded", 100)
    assert run.condition("Complete")["status"] == "True"
    assert run.condition("Stalled") == run.condition("Reconciling") == {}
    assert run.reasons == ["Preparing", "Training", "Succeeded"]
    assert run.status["version"] == run.version["metadata"]["name"]


def test_a_settled_job_writes_nothing_more_in_any_stage() -> None:
    run = Run()
    ends: list[tuple[str, AnyResult] | None] = [None, ("prepare", prepared()), ("train", trained())]
    for end in ends:
        if end:
            run.cluster.finish(*end)
        run.step()
        before = (list(run.cluster.writes), dict(run.status))
        run.step(after=3)
        plan = run.step(after=6)
        assert (run.cluster.writes, run.status) == before
        assert plan.events == ()


ENGINE = {"type": "vllm", "image": "vllm:1", "gpus": 1}


@pytest.mark.parametrize(("own", "queue"), [({}, "research"), ({"queueName": "gates"}, "gates")])
def test_the_version_is_evaluated_as_the_job_says_and_waits_in_its_queue(own: Obj, queue: str) -> None:
    suites = [
        {"name": "new", "kind": "target", "items": "data", "maxTokens": 9},
        {"name": "least", "kind": "floor", "uri": "pvc://shared/least.jsonl"},
    ]
    asked = {"suites": suites, "maxTokens": 200, "startupTimeoutSeconds": 1200, "engine": ENGINE} | own
    run = Run(evaluation=asked, compute={"nodes": 2, "queueName": "research"})
    run.step()
    prepare = jobs.task_of(run.cluster.job("prepare"))
    assert isinstance(prepare, PrepareTask)
    assert [suite.max_tokens for suite in prepare.suites] == [9, 200]  # prepare refuses items that are longer
    run.cluster.finish("prepare", prepared())
    run.step()
    run.cluster.finish("train", trained())
    run.step()
    found = ModelVersion.model_validate(run.version).spec.evaluation
    assert (found.queue_name, found.max_tokens, found.startup_timeout_seconds) == (queue, 200, 1200)
    assert (found.engine.image if found.engine else None, found.concurrency) == ("vllm:1", 8)
    assert [suite.max_tokens for suite in found.suites] == [9, None]


def test_the_version_of_a_training_of_the_users_own_names_its_image() -> None:
    run = Run(training={"entrypoint": "own:train", "image": "team/trainer:2"})
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    assert ModelVersion.model_validate(run.version).spec.lineage.trainer_image == "team/trainer:2"


@pytest.mark.parametrize(
    ("training", "sizes", "known"),
    [
        ({}, {"cache_elements": 512}, True),
        ({}, {"cache_elements": 0}, False),
        ({"entrypoint": "own:train", "image": "team/trainer:2"}, {"cache_elements": 512}, False),
    ],
)
def test_the_version_has_the_sizes_of_its_model_if_it_is_the_prepared_one(
    training: Obj, sizes: dict[str, int], known: bool
) -> None:
    run = Run(training=training)
    run.step()
    measured = facts(bare_parameters=1_000_000, **sizes).model_copy(update={"dtype": "float32"})
    run.cluster.finish("prepare", prepared(model=measured))
    run.step()
    run.cluster.finish("train", trained())
    run.step()
    found = ModelVersion.model_validate(run.version).spec.model
    assert (found is not None) == known
    assert found is None or (found.parameters, found.cache_elements, found.context_length) == (1_000_000, 512, 512)


def test_the_version_keeps_where_it_came_from() -> None:
    run = Run(model={"from": {"family": "support"}})
    trigger = {"kind": "Drift", "service": "desk", "alert": "DriftloopModelDrift", "started": EARLIER}
    run.body["metadata"]["annotations"] = {TRIGGER: json.dumps(trigger)}
    old = approved(version("support-1", "b"))
    run.until_training(versions=(old,))
    run.cluster.finish("train", trained())
    run.step(versions=(old,))
    spec = ModelVersion.model_validate(run.version).spec
    assert spec.lineage.trigger.model_dump(exclude_none=True) == trigger
    assert (spec.lineage.parent, spec.lineage.base_digest) == ("support-1", digest("b"))
    assert (spec.lineage.job, spec.lineage.job_uid, spec.lineage.data_digest) == ("tune", UID, digest("c"))
    assert spec.lineage.trainer_image == "trainer:1"
    assert spec.artefact.digest == digest("f")
    assert [(s.name, s.items, s.uri, s.digest, s.independent_items) for s in spec.evaluation.suites] == [
        ("new", None, "pvc://shared/work/new.jsonl", digest("d"), 90)
    ]
    assert spec.evaluation.storage == "pvc://shared/work/evaluations"
    assert "ownerReferences" not in run.version["metadata"]


@pytest.mark.parametrize("adapters", range(6))
def test_a_version_that_is_an_adapter_names_the_folders_up_to_the_whole_model_and_the_fifth_is_merged(
    adapters: int,
) -> None:
    bases = ["pvc://shared/base", *(f"pvc://shared/versions/v{number}" for number in range(adapters))][::-1][:5]
    run = Run(
        model={"from": {"versionRef": {"name": "support-1"}} if adapters else {"uri": bases[0]}},
        output={"family": "support", "mergeAdapter": False},
        training={"trainBatchSize": 32, "numTrainEpochs": 2, "adapter": {"type": "lora"}},
    )
    artefact = {"uri": bases[0], "digest": digest("b"), "bases": bases[1:]}
    old = approved(version("support-1", artefact=artefact))
    run.until_training(versions=(old,))
    whole = len(bases) > MAX_ADAPTERS
    for stage in ("prepare", "train"):
        task = jobs.task_of(run.cluster.job(stage))
        assert isinstance(task, PrepareTask | TrainTask)
        assert (task.merge_adapter, task.model.uri, task.model.bases) == (whole, bases[0], tuple(bases[1:]))
    run.cluster.finish("train", trained())
    run.step(versions=(old,))
    spec = ModelVersion.model_validate(run.version).spec
    assert spec.artefact.bases == ([] if whole else bases)
    assert (spec.artefact.uri, spec.artefact.digest) == (trained().uri, digest("f"))
    assert spec.model == ModelVersion.model_validate(merged_version()).spec.model  # its size in memory is whole


def merged_version() -> Obj:
    """The version of the same training that merges."""
    run = Run(training={"trainBatchSize": 32, "numTrainEpochs": 2, "adapter": {"type": "lora"}})
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    return run.version


def test_a_claim_of_a_base_is_looked_for_before_the_job_starts() -> None:
    run = Run(model={"from": {"versionRef": {"name": "support-1"}}})
    artefact = {"uri": "pvc://shared/v1", "digest": digest("b"), "bases": ["pvc://models/base"]}
    run.step(versions=(approved(version("support-1", artefact=artefact)),))
    assert (run.condition("Stalled")["reason"], "models" in run.condition("Stalled")["message"]) == (
        "ClaimNotFound",
        True,
    )


def test_a_broken_trigger_counts_as_a_users() -> None:
    run = Run()
    run.body["metadata"]["annotations"] = {TRIGGER: '{"kind": "Aliens"}'}
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    assert run.version["spec"]["lineage"]["trigger"] == {"kind": "User"}


def test_training_gets_the_model_that_prepare_started_from_whatever_is_approved_since() -> None:
    run = Run(model={"from": {"family": "support"}})
    old = approved(version("support-1", "b"))
    run.step(versions=(old,))
    run.cluster.finish("prepare", prepared())
    run.step(versions=(old, approved(version("support-2", "2", created="2026-01-01T11:30:00Z"))))
    task = jobs.task_of(run.cluster.job("train"))
    assert isinstance(task, TrainTask)
    assert task.model.digest == digest("b")
    assert task.lineage.parent == "support-1"


def test_a_new_model_is_trained_from_where_prepare_initialised_it() -> None:
    new = {"config": {"architecture": {"model_type": "llama"}}}
    run = Run(model={"from": new}, training={"method": "pretrain"})
    run.step()
    run.cluster.finish("prepare", prepared(model_uri="pvc://shared/work/new", model_digest=digest("7")))
    run.step()
    task = jobs.task_of(run.cluster.job("train"))
    assert isinstance(task, TrainTask)
    assert (task.model.uri, task.model.digest, task.model.new) == ("pvc://shared/work/new", digest("7"), None)


def test_a_model_without_a_manifest_is_trained_from_the_content_that_prepare_has_read() -> None:
    """An image of an earlier release looks for a manifest in the folder if the task has a `digest`."""
    run = Run(model={"from": {"uri": "pvc://shared/copied"}})
    run.step()
    run.cluster.finish("prepare", prepared(model_digest=digest("7"), model_unlisted=True))
    run.step()
    task = jobs.task_of(run.cluster.job("train"))
    assert isinstance(task, TrainTask)
    assert (task.model.digest, task.model.content, task.lineage.base_digest) == (None, digest("7"), digest("7"))
    assert run.status["data"]["modelDigest"] == digest("7")


def test_the_ray_token_comes_before_the_job_that_needs_it() -> None:
    run = Run()
    run.until_training()
    kinds = [write.split()[1] for write in run.cluster.writes]
    assert kinds == ["NetworkPolicy", "Job", "Service", "Secret", "Job"]
    assert run.cluster.of_kind("Secret")[0]["stringData"] == {"token": "token"}


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_wiping_the_status_changes_nothing_but_the_status(stage: str) -> None:
    run = Run()
    run.step()
    if stage == "train":
        run.cluster.finish("prepare", prepared())
        run.step()
    before, writes = dict(run.status), list(run.cluster.writes)
    run.status = {}
    run.step()
    assert run.cluster.writes == writes
    assert run.status == before


def test_a_wiped_status_of_a_finished_job_is_found_again_by_its_version() -> None:
    run = Run()
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    writes = list(run.cluster.writes)
    run.status = {}
    run.step()
    assert (run.status["phase"], run.cluster.writes) == ("Succeeded", writes)


def test_a_version_deleted_after_success_is_not_made_again() -> None:
    run = Run()
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    del run.cluster.objects["ModelVersion", run.status["version"]]
    run.step()
    assert run.cluster.of_kind("ModelVersion") == []


# Failures of a stage.


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_stages_own_reason_becomes_the_jobs(stage: str) -> None:
    run = Run()
    run.step()
    if stage == "train":
        run.cluster.finish("prepare", prepared())
        run.step()
    error = StageError(reason="ColumnNotFound", message="rows.csv has no column prompt")
    run.cluster.fail(stage, terminated(stage, 78, encode(error)))
    run.step()
    assert run.status["phase"] == "Failed"
    for type_ in ("Failed", "Stalled"):
        entry = run.condition(type_)
        assert (entry["status"], entry["reason"], entry["message"]) == ("True", error.reason, error.message)
    assert run.reasons[-1] == "ColumnNotFound"
    assert "finished" in run.status
    assert run.step().writes == ()


# Too little memory.

OOM_KILLED = terminated("train", 137, reason="OOMKilled")
LEAST = {"trainBatchSize": 32, "perDeviceTrainBatchSize": 1, "gradientCheckpointing": True}  # its rows are short


def train_task(run: Run) -> TrainTask:
    found = jobs.task_of(run.cluster.job("train"))
    assert isinstance(found, TrainTask)
    return found


def killed(run: Run, index: int = 1) -> Obj:
    """A pod of the running train Job that the kernel has killed."""
    pod = pod_of(run.cluster.job("train"), OOM_KILLED, phase="Failed", index=index)
    run.cluster.pods.append(pod)
    return pod


def test_an_attempt_that_ran_out_of_memory_is_followed_by_one_with_half_of_the_rows() -> None:
    run = Run()
    run.until_training()
    first = train_task(run)
    killed(run)
    run.step()
    told = run.condition("Reconciling")
    assert (run.status["phase"], told["reason"]) == ("Training", "LoweringMemory")
    assert "at most 8 instead of 16 rows" in told["message"]
    [adjustment] = run.status["adjustments"]
    assert (adjustment["attempt"], adjustment["reason"], adjustment["time"]) == (1, "OOMKilled", "2026-01-01T12:00:00Z")
    assert (adjustment["perDeviceTrainBatchSize"], adjustment["gradientCheckpointing"]) == (8, False)
    run.step()
    run.cluster.pods = []
    run.cluster.finish("prepare", prepared())
    run.step()
    second = train_task(run)
    assert (first.attempt, second.attempt, run.status["attempt"]) == (1, 2, 2)
    assert (first.per_device_train_batch_size, second.per_device_train_batch_size) == (16, 8)
    assert second.gradient_accumulation_steps == 2 * first.gradient_accumulation_steps
    assert (second.runs, second.total_steps) == (first.runs, first.total_steps)
    assert run.condition("Reconciling")["reason"] == "Training"
    assert run.reasons == ["Preparing", "Training", "LoweringMemory", "Training"]
    writes = list(run.cluster.writes)
    run.step()
    run.step(after=5)
    assert run.cluster.writes == writes


def test_a_stage_that_says_itself_that_memory_is_short_goes_on_with_less() -> None:
    run = Run()
    run.until_training()
    error = StageError(reason="OutOfMemory", message="rank 3: CUDA out of memory")
    run.cluster.fail("train", terminated("train", 78, encode(error)))
    run.step()
    assert run.status["adjustments"][0]["reason"] == "OutOfMemory"
    assert "rank 3: CUDA out of memory" in run.condition("Reconciling")["message"]
    assert not run.condition("Failed")


@pytest.mark.parametrize("lost", [False, True])
def test_the_ladder_survives_the_loss_of_the_status(lost: bool) -> None:
    run = Run()
    run.until_training()
    killed(run)
    run.step()
    run.step()
    run.cluster.pods = []
    run.cluster.finish("prepare", prepared())
    run.step()
    before, writes = dict(run.status), list(run.cluster.writes)
    run.status = {} if lost else run.status
    run.step()
    assert (run.cluster.writes, run.status) == (writes, before)
    killed(run)
    run.step()
    assert [entry["perDeviceTrainBatchSize"] for entry in run.status["adjustments"]] == [8, 4]


def test_an_operator_that_ends_between_two_steps_goes_on_from_the_status() -> None:
    run = Run()
    run.until_training()
    killed(run)
    run.step()
    run.cluster.pods = []  # what showed the reason is gone
    run.cluster.finish("prepare", prepared())
    assert [write for write in run.cluster.writes if write.startswith("delete")] == []
    run.step()
    run.step()
    assert (train_task(run).attempt, train_task(run).per_device_train_batch_size) == (2, 8)


def test_where_nothing_can_be_lowered_the_job_fails_with_the_change_that_would_fit() -> None:
    run = Run(training=LEAST)
    run.until_training()
    running = killed(run)
    run.step()
    assert (run.condition("Reconciling")["reason"], "adjustments" in run.status) == ("Retrying", False)
    assert "OOMKilled" in run.condition("Reconciling")["message"]
    run.cluster.pods.remove(running)
    run.cluster.fail("train", OOM_KILLED, reason="FailedIndexes")
    run.step()
    for type_ in ("Failed", "Stalled"):
        assert run.condition(type_)["reason"] == "OOMKilled"
    assert "memory limit" in run.condition("Failed")["message"]
    assert "it would fit with compute.resources.limits.memory: 3Gi" in run.condition("Failed")["message"]


def test_an_attempt_that_could_not_load_the_model_ends_with_the_change_that_lets_it_be_loaded() -> None:
    run = Run(training={"trainBatchSize": 32, "perDeviceTrainBatchSize": 32})
    run.until_training()
    error = StageError(reason="OutOfMemory", message="the kernel ended a process", phase="loading")
    run.cluster.fail("train", terminated("train", 78, encode(error)), reason="FailedIndexes")
    run.step()
    told = run.condition("Failed")
    assert "adjustments" not in run.status
    assert told["reason"] == "OutOfMemory"
    assert told["message"].startswith(
        "the kernel ended a process (during loading, which no smaller step helps): it would fit with "
    )
    assert not any(words in told["message"] for words in ("gradientCheckpointing", "logitsMemory", "bf16"))


def test_what_is_no_lack_of_the_pods_memory_lowers_nothing() -> None:
    run = Run()
    run.until_training()
    evicted = pod_of(run.cluster.job("train"), terminated("train", 137), phase="Failed")
    evicted["status"] |= {"reason": "Evicted", "message": "the node was low on resource: memory"}
    disrupted = pod_of(run.cluster.job("train"), OOM_KILLED, phase="Failed", index=1)
    disrupted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    run.cluster.pods += [evicted, disrupted]
    run.step()
    assert "adjustments" not in run.status
    run.cluster.pods += [pod_of(run.cluster.job("train"), index=index) for index in (0, 1)]
    killed(run)  # but its replacement runs
    run.step()
    assert "adjustments" not in run.status


def test_a_training_that_ended_well_after_all_is_not_repeated() -> None:
    run = Run()
    run.until_training()
    killed(run)
    run.step()
    run.cluster.finish("train", trained())
    run.step()
    assert run.status["phase"] == "Succeeded"


def test_a_suspended_ladder_is_resumed_with_what_was_lowered() -> None:
    run = Run()
    run.until_training()
    killed(run)
    run.step()
    run.suspend()
    run.step()
    run.cluster.pods = []
    run.step()
    assert run.status["phase"] == "Suspended"
    run.suspend(False)
    run.cluster.finish("prepare", prepared())
    run.step()
    assert (train_task(run).attempt, train_task(run).per_device_train_batch_size) == (2, 8)


def test_a_result_that_does_not_parse_is_reported_never_guessed() -> None:
    run = Run()
    run.step()
    found = run.cluster.job("prepare")
    run.cluster.finish("prepare", prepared())
    run.cluster.pods = [pod_of(found, terminated("prepare", 0, '{"kind": "Prepare", "trainRows": -1}'))]
    run.step()
    assert run.condition("Failed")["reason"] == "InvalidResult"
    assert "Prepare" in run.condition("Failed")["message"]


def test_a_result_of_another_stage_is_refused() -> None:
    run = Run()
    run.step()
    run.cluster.finish("prepare", prepared())
    run.cluster.pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = encode(trained())
    run.step()
    assert run.condition("Failed")["reason"] == "InvalidResult"


def test_a_pod_that_only_looks_like_ours_has_no_say() -> None:
    run = Run()
    run.step()
    run.cluster.finish("prepare", prepared())
    owner = run.cluster.pods[0]["metadata"]["ownerReferences"][0]
    owner["uid"] = "somebody-elses"
    run.step()
    assert (run.status["phase"], run.condition("Ready")["reason"]) == ("Preparing", "ResultLost")
    assert "data" not in run.status


def test_a_result_lost_with_its_pod_is_had_by_running_again() -> None:
    run = Run()
    run.until_training()
    run.cluster.finish("train", trained())
    run.cluster.pods = []
    assert run.step().writes[-1] == Delete("batch/v1", "Job", "team", *identity(run, "train"))
    assert run.condition("Ready")["reason"] == "ResultLost"
    assert (run.status["phase"], run.status["attempt"]) == ("Training", 1)
    run.cluster.pods = []
    run.cluster.finish("prepare", prepared())
    run.step()
    assert run.cluster.job("train")["metadata"]["labels"][ATTEMPT] == "1"


def identity(run: Run, stage: str) -> tuple[str, str]:
    """Name and UID of the first Job that a stage had."""
    name = next(write.split()[2] for write in run.cluster.writes if write.startswith("write Job") and stage in write)
    order = [write for write in run.cluster.writes if write.startswith("write")]
    return name, f"uid-{order.index(f'write Job {name}') + 1}"


def test_an_image_that_cannot_be_pulled_shows_in_the_condition_while_it_waits() -> None:
    run = Run()
    run.step()
    stuck = waiting("prepare", "ImagePullBackOff", "back-off pulling image trainer:1")
    run.cluster.pods.append(pod_of(run.cluster.job("prepare"), stuck, phase="Pending"))
    run.step()
    entry = run.condition("Reconciling")
    assert entry["reason"] == "ImagePullBackOff"
    assert "trainer:1" in entry["message"]


# What must be there before.


def test_a_model_that_does_not_fit_is_refused_with_the_numbers_before_a_pod_is_made() -> None:
    run = Run()
    run.step()
    run.cluster.finish("prepare", prepared(model=facts(8_000_000_000)))
    run.step()
    assert [found["metadata"]["labels"]["driftloop.dev/stage"] for found in run.cluster.of_kind("Job")] == ["prepare"]
    entry = run.condition("Stalled")
    assert entry["reason"] == "DoesNotFit"
    assert "GiB" in entry["message"]
    assert "it would fit with compute.resources.limits.memory" in entry["message"]


@pytest.mark.parametrize(
    ("claims", "reason"),
    [({}, "ClaimNotFound"), (claim(mode="ReadWriteOnce"), "NeedsReadWriteMany")],
)
def test_volumes_are_checked_before_the_first_job_and_again_when_they_change(
    claims: dict[str, Obj], reason: str
) -> None:
    run = Run()
    plan = run.step(claims=claims)
    assert (run.status["phase"], run.condition("Stalled")["reason"], plan.writes) == ("Pending", reason, ())
    assert plan.requeue_after
    run.step(claims=claim())
    assert run.status["phase"] == "Preparing"


def test_one_node_does_with_a_read_write_once_claim() -> None:
    run = Run(compute={"nodes": 1})
    run.step(claims=claim(mode="ReadWriteOnce"))
    assert run.status["phase"] == "Preparing"


def test_a_job_waits_for_the_familys_first_approved_version() -> None:
    run = Run(model={"from": {"family": "base"}})
    run.step(versions=(version("base-1", family="base"),))
    assert (run.status["phase"], run.condition("Reconciling")["reason"]) == ("Pending", "NoApprovedVersion")
    run.step(versions=(approved(version("base-1", family="base")),))
    assert run.status["phase"] == "Preparing"


@pytest.mark.parametrize("source", [{"family": "support"}, {"versionRef": {"name": "support-1"}}])
def test_training_starts_from_a_version_that_awaits_approval_to_be_served(source: Obj) -> None:
    run = Run(model={"from": source})
    run.step(versions=(version("support-1") | {"status": {"phase": "AwaitingApproval"}},))
    assert run.status["phase"] == "Preparing"


@pytest.mark.parametrize(
    ("phase", "type_"), [("Rejected", "Failed"), ("Failed", "Failed"), ("Evaluating", "Reconciling")]
)
def test_training_starts_only_from_an_approved_version(phase: str, type_: str) -> None:
    run = Run(model={"from": {"versionRef": {"name": "support-1"}}})
    plan = run.step(versions=(version("support-1") | {"status": {"phase": phase}},))
    assert run.condition(type_)["reason"] == "VersionNotApproved"
    assert plan.writes == ()


def test_training_starts_from_what_a_service_serves_as_stable() -> None:
    run = Run(model={"from": {"serving": {"name": "desk"}}})
    desk, stable = service(), version("support-1", "b")
    run.step(serving=None)
    assert run.condition("Ready")["reason"] == "ServiceNotFound"
    run.step(serving=desk, versions=(stable,))
    assert run.condition("Ready")["reason"] == "NoStableVersion"
    deployments = (deployment(desk, "support-2", role="candidate"), deployment(desk, "support-1"))
    run.step(serving=desk, versions=(stable,), serving_deployments=deployments)
    task = jobs.task_of(run.cluster.job("prepare"))
    assert isinstance(task, PrepareTask)
    assert task.model.digest == digest("b")


def test_feedback_is_read_from_the_services_own_folder() -> None:
    run = Run(data={"feedback": {"service": "desk", "maxRows": 7}})
    run.step()
    assert run.condition("Ready")["reason"] == "ServiceNotFound"
    run.step(feedback=service())
    assert run.condition("Stalled")["reason"] == "NoFeedbackStorage"
    run.step(feedback=service(feedback={"storage": "pvc://shared/feedback"}))
    task = jobs.task_of(run.cluster.job("prepare"))
    assert isinstance(task, PrepareTask)
    assert task.feedback is not None
    assert (task.feedback.uri, task.feedback.max_rows) == ("pvc://shared/feedback/uid-desk", 7)


# Suspension.


def test_suspending_deletes_what_works_and_resuming_is_the_next_attempt() -> None:
    run = Run()
    run.until_training()
    first = run.cluster.job("train")
    run.cluster.pods.append(pod_of(first, phase="Running"))
    run.suspend()
    run.step()
    assert run.condition("Ready")["reason"] == "Suspending"
    run.step()
    assert (run.status["phase"], run.condition("Ready")["reason"]) == ("Suspended", "Suspended")
    run.suspend(False)
    run.step()
    second = run.cluster.job("train")
    assert (run.status["attempt"], second["metadata"]["labels"][ATTEMPT]) == (2, "2")
    old, new = jobs.task_of(first), jobs.task_of(second)
    assert isinstance(old, TrainTask)
    assert isinstance(new, TrainTask)
    assert (old.runs, old.attempt, new.attempt) == (new.runs, 1, 2)
    assert old.head != new.head


def test_a_suspended_job_starts_nothing() -> None:
    run = Run(suspend=True)
    assert run.step().writes == ()
    assert run.status["phase"] == "Suspended"


def test_the_next_attempt_waits_until_the_pods_of_the_last_are_gone() -> None:
    run = Run()
    run.until_training()
    orphan = pod_of(run.cluster.job("train"), phase="Running")
    run.suspend()
    run.step()
    run.cluster.pods.append(orphan)
    run.step()
    assert run.status["phase"] == "Training"
    run.suspend(False)
    run.step()
    assert run.condition("Ready")["reason"] == "Stopping"
    run.cluster.pods.remove(orphan)
    run.step()
    assert run.cluster.of_kind("Job")[-1]["metadata"]["labels"]["driftloop.dev/stage"] == "train"


def test_a_cache_that_misses_the_running_job_starts_no_second_attempt() -> None:
    run = Run()
    run.until_training()
    plan = run.step(jobs=tuple(obj for obj in run.cluster.of_kind("Job") if "prepare" in obj["metadata"]["name"]))
    names = [action.body["metadata"]["name"] for action in plan.writes if isinstance(action, Create)]
    assert names[-1] == run.cluster.job("train")["metadata"]["name"]


def test_suspending_a_finished_job_leaves_its_end_alone() -> None:
    run = Run()
    run.until_training()
    run.cluster.finish("train", trained())
    run.step()
    run.suspend()
    plan = run.step()
    assert plan.writes == ()
    assert (run.status["phase"], run.status["observedGeneration"]) == ("Succeeded", 2)


# The rest.


def test_a_pod_on_a_lost_node_is_failed_once_its_grace_is_over() -> None:
    run = Run()
    run.until_training()
    pod = pod_of(run.cluster.job("train"), phase="Running", index=1)
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T12:00:00Z", "resourceVersion": "7"}
    pod["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"},
    ]
    run.cluster.pods.append(pod)
    plan = run.step(after=4)
    assert not [action for action in plan.writes if isinstance(action, FailPod)]
    assert plan.requeue_after == 6
    plan = run.step(after=11)
    [failed] = [action for action in plan.writes if isinstance(action, FailPod)]
    assert (failed.name, failed.resource_version) == (pod["metadata"]["name"], "7")
    assert not [action for action in plan.actions if isinstance(action, FailPod)]  # who refuses it stops no training


def test_a_lost_pod_is_failed_after_the_jobs_end_too() -> None:
    run = Run()
    run.until_training()
    pod = pod_of(run.cluster.job("train"), phase="Running", index=1)
    pod["metadata"]["deletionTimestamp"] = EARLIER
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
    run.cluster.finish("train", trained())
    run.step()
    assert run.status["phase"] == "Succeeded"
    run.cluster.pods.append(pod)
    plan = run.step()
    assert ([type(action) for action in plan.writes], plan.actions) == ([FailPod], ())


def test_a_job_that_is_being_deleted_creates_nothing() -> None:
    run = Run()
    run.body["metadata"]["deletionTimestamp"] = EARLIER
    assert run.step() == Plan()


def test_progress_is_shown_while_training() -> None:
    run = Run()
    run.until_training()
    seen = Progress(step=10, total_steps=63, percent=15, eta="2m00s", updated="2026-01-01T12:00:10Z")
    plan = run.step(after=10, progress=seen)
    assert run.status["progress"] == seen.dump()
    assert plan.requeue_after == 10


def test_a_training_on_fewer_nodes_says_so_and_says_when_all_are_back() -> None:
    run = Run(compute={"nodes": 2, "elastic": {"minNodes": 1}})
    run.until_training()
    seen = Progress(step=10, total_steps=63, percent=15, nodes=1, updated="2026-01-01T12:00:10Z")
    run.step(after=10, progress=seen)
    assert run.condition("Ready")["reason"] == "FewerNodes"
    assert run.condition("Ready")["message"].startswith("training goes on with 1 of 2 nodes")
    assert run.status["progress"]["nodes"] == 1
    back = seen.model_copy(update={"nodes": 2, "updated": "2026-01-01T12:00:20Z"})
    run.step(after=20, progress=back)
    assert run.condition("Ready")["reason"] == "Training"
    assert run.reasons[-3:] == ["Training", "FewerNodes", "Training"]


def test_a_training_that_stopped_early_is_a_success_with_a_reason_and_an_event_of_its_own() -> None:
    run = Run()
    run.until_training()
    validation = ValidationResult(loss=2.0, best_loss=1.5, best_step=20, exported_step=20)
    run.cluster.finish("train", trained().model_copy(update={"total_steps": 100, "validation": validation}))
    run.step()
    assert (run.status["phase"], run.condition("Complete")["status"]) == ("Succeeded", "True")
    assert run.reasons[-1] == run.condition("Ready")["reason"] == "StoppedEarly"
    assert "after 63 of 100 steps" in run.condition("Ready")["message"]
    assert run.status["progress"]["bestStep"] == 20


def test_the_last_checkpoint_is_shown_on_the_train_job() -> None:
    run = Run()
    run.until_training()
    last = LastCheckpoint(step=8, time="2026-01-01T12:00:05Z")
    seen = Progress(step=10, total_steps=63, percent=15, updated="2026-01-01T12:00:10Z", checkpoint=last)
    plan = run.step(after=10, progress=seen)
    shown = {CHECKPOINT_STEP: "8", CHECKPOINT_TIME: "2026-01-01T12:00:05Z"}
    assert Annotate("team", *identity(run, "train"), shown) in plan.writes
    assert run.status["progress"]["checkpoint"] == last.dump()


def test_training_resumes_from_the_run_that_was_found_at_the_start_though_its_job_is_gone() -> None:
    run = Run(resumeFrom="first")
    first = job()
    first["metadata"] |= {"name": "first", "uid": "first-uid"}
    run.step(resumed=first | {"status": {"phase": "Failed"}})
    run.until_training()
    task = jobs.task_of(run.cluster.job("train"))
    assert isinstance(task, TrainTask)
    assert task.resume_from == "pvc://shared/work/runs/first-uid"


def test_suspension_is_announced_by_the_generation_that_was_looked_at() -> None:
    run = Run()
    run.step()
    run.suspend()
    run.step()
    assert {entry["observedGeneration"] for entry in run.status["conditions"]} == {2}


def test_a_worker_makes_room_for_a_leading_pod_that_no_node_takes_and_an_event_says_so() -> None:
    run = Run(compute={"nodes": 2, "elastic": {"minNodes": 1, "waitSeconds": 60}})
    run.until_training()
    lead, worker = (pod_of(run.cluster.job("train"), index=index) for index in (0, 1))
    for pod, index, created in ((lead, 0, "2026-01-01T11:00:01Z"), (worker, 1, EARLIER)):
        pod["metadata"] |= {"creationTimestamp": created, "resourceVersion": "7"}
        pod["metadata"]["labels"][INDEX] = str(index)
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": EARLIER}
    lead["status"] = {"phase": "Pending", "conditions": [waits]}
    run.cluster.pods += [lead, worker]
    plan = run.step()
    (group,) = (group for group in plan.beside if group.events)
    assert [action.name for action in group.actions if isinstance(action, Delete)] == [worker["metadata"]["name"]]
    assert group.events[0].reason == "WorkerMakesRoom"
