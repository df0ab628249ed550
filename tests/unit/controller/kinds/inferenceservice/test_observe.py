"""What is read of the cluster, and when Prometheus is asked."""

from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest

from driftloop.api.inferenceservice import RevisionStatus
from driftloop.contract.activity import Activity
from driftloop.contract.names import ALERT_NAME
from driftloop.contract.topics import TopicsReport
from driftloop.controller.kinds.inferenceservice.door import door_deployment
from driftloop.controller.kinds.inferenceservice.idle import Requests
from driftloop.controller.kinds.inferenceservice.observe import MOST_PODS, observe
from driftloop.controller.kinds.inferenceservice.observed import Observed, Sleep
from driftloop.controller.kinds.inferenceservice.revision import deployment, revision_of
from driftloop.controller.pods.group import worker
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.kube.routes import Routes
from driftloop.controller.runtime.readings.world import Metrics, World
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, REVISION, ROLE, SERVICE, SLEEP, STAGE
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, ago, digest, retraining, version
from unit.controller.kinds.inferenceservice.builders import service as built
from unit.controller.kinds.inferenceservice.test_coldstart import pod as coldstart_pod

KEY = Key("InferenceService", "team", "desk")


class Asked:
    """Remembers what Prometheus was asked, and has no answer."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        self.queries.append(promql)
        raise MetricsUnavailable("down")


class Told(Asked):
    """Pods that know so many requests since the change; None: a pod that does not answer."""

    def __init__(self, **pods: int | None) -> None:
        super().__init__()
        self.pods, self.questions = pods, list[tuple[str, str, float]]()

    async def topics(self, pod: Obj, since: datetime, together: float) -> TopicsReport:
        name = pod["metadata"]["name"]
        self.questions.append((name, timestamp(since), together))
        if (known := self.pods[name]) is None:
            raise MetricsUnavailable("no answer")
        return TopicsReport(before=900, since=known, grown=1 if known >= 20 else None)


class Routed:
    """One HTTPRoute, and which ones were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def route(self, namespace: str, name: str) -> Obj:
        self.asked.append(f"{namespace}/{name}")
        return {"kind": "HTTPRoute"}


class Cluster:
    """The caches, and a clock that stands still."""

    def __init__(self, *objects: Obj, asked: Asked | None = None) -> None:
        self.asked, self._caches, self._number = asked or Asked(), Caches(), 0
        self.routes = Routed()
        for obj in objects:
            self.put(obj)
        self.world = World(
            self._caches,
            cast(Metrics, self.asked),
            SETTINGS,
            Nodes(None, lambda: 0.0),
            cast(Routes, self.routes),
            lambda: NOW,
        )

    def put(self, obj: Obj) -> None:
        self._number += 1
        meta = {"namespace": "team", "creationTimestamp": timestamp(ago(900)), "uid": f"uid-{obj['metadata']['name']}"}
        self._caches.put(obj | {"metadata": meta | obj["metadata"] | {"resourceVersion": str(self._number)}})

    async def look(self) -> Observed:
        found = await observe(KEY, self.world)
        assert found is not None
        return found


def service(spec: Obj | None = None, status: Obj | None = None) -> Obj:
    return built(spec).service | {"status": status or {}}


def model_version(name: str, family: str = "desk", **status: Any) -> Obj:
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name},
        "spec": {"family": family, "artefact": {"uri": f"pvc://shared/{name}", "digest": digest(name)}},
        "status": status,
    }


def served(name: str, role: str, available: int = 2, notes: dict[str, str] | None = None) -> Obj:
    of = version(name, uri=f"pvc://shared/{name}")
    body = deployment(built(), of, revision_of(built(), of, SETTINGS), 2, SETTINGS, ago(600))
    body["metadata"]["labels"][ROLE] = role
    body["metadata"]["annotations"] |= notes or {}
    return body | {"status": {"availableReplicas": available, "replicas": 2}}


async def test_a_service_that_is_gone_is_none() -> None:
    assert await observe(KEY, Cluster().world) is None


async def test_versions_of_other_families_and_broken_ones_are_passed_over() -> None:
    broken = model_version("broken")
    broken["spec"]["artefact"]["digest"] = "md5:0"
    found = await Cluster(service(), model_version("v1"), model_version("other", "else"), broken).look()
    assert [v.name for v in found.versions] == ["v1"]


async def test_a_version_is_read_with_its_verdict_and_what_it_was_compared_with() -> None:
    baseline = {"version": "v0", "digest": digest("v0"), "service": "desk"}
    [found] = (await Cluster(service(), model_version("v1", phase="Approved", baseline=baseline)).look()).versions
    assert (found.phase, found.baseline_service, found.baseline_digest) == ("Approved", "desk", digest("v0"))


@pytest.mark.parametrize(("verdict", "gained"), [("Pass", True), ("Inconclusive", False), ("NotApplicable", False)])
async def test_a_version_is_read_with_whether_it_has_shown_a_gain(verdict: str, gained: bool) -> None:
    gates = [
        {"name": "old", "kind": "retention", "verdict": "Pass", "message": ""},
        {"name": "new", "kind": "target", "verdict": verdict, "message": ""},
    ]
    [found] = (await Cluster(service(), model_version("v1", phase="Approved", gates=gates)).look()).versions
    assert found.gained == gained


async def test_only_deployments_that_the_service_controls_are_its_revisions() -> None:
    foreign = served("v2", "stable")
    foreign["metadata"]["ownerReferences"] = []
    ending = served("v3", "retired")
    ending["metadata"]["deletionTimestamp"] = timestamp(NOW)
    found = await Cluster(service(), served("v1", "stable"), foreign, ending).look()
    assert [r.version for r in found.revisions] == ["v1"]


async def test_a_revision_that_is_not_available_has_its_pods_reason() -> None:
    body = served("v1", "candidate", available=0)
    labels = {SERVICE: "desk", STAGE: "serve", REVISION: body["metadata"]["labels"][REVISION]}
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": labels},
        "status": {"containerStatuses": [{"name": "proxy", "state": {"waiting": waiting}}]},
    }
    [found] = (await Cluster(service(), body, pod).look()).revisions
    assert found.problem.startswith("ImagePullBackOff: ")
    assert "no such image" in found.problem


@pytest.mark.parametrize(
    ("engine", "unstarted"),
    [
        ({"state": {"waiting": {"reason": "PodInitializing"}}}, True),
        ({"state": {"running": {}}}, False),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}, False),
    ],
    ids=["still downloading", "loading the model", "crashing"],
)
async def test_whether_an_engine_ever_ran_is_read_from_the_pods(engine: Obj, unstarted: bool) -> None:
    body = served("v1", "candidate", available=0)
    labels = {SERVICE: "desk", STAGE: "serve", REVISION: body["metadata"]["labels"][REVISION]}
    statuses = [{"name": "fetch", "state": {"running": {}}}, {"name": "engine", **engine}]
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": labels},
        "status": {"initContainerStatuses": statuses},
    }
    [found] = (await Cluster(service(), body, pod).look()).revisions
    assert found.unstarted is unstarted
    [without] = (await Cluster(service(), body).look()).revisions
    assert without.unstarted


async def test_a_ready_pod_does_not_say_that_the_engine_of_a_waiting_one_ran() -> None:
    """A node was lost during an analysis: its pod found no other, and beside a ready one it counted as started."""
    body = served("v1", "candidate", available=1)
    body["spec"]["replicas"] = 2
    labels = {SERVICE: "desk", STAGE: "serve", REVISION: body["metadata"]["labels"][REVISION]}
    pods: list[Obj] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "status": {"conditions": [condition], "initContainerStatuses": statuses},
        }
        for name, condition, statuses in (
            ("ready", {"type": "Ready", "status": "True"}, [{"name": "engine", "state": {"running": {}}}]),
            ("waits", {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}, []),
        )
    ]
    [found] = (await Cluster(service(), body, *pods).look()).revisions
    assert found.unstarted
    assert found.problem.startswith("Unschedulable")


async def test_a_revision_in_groups_has_its_leaders_with_their_workers_and_says_how_far_they_are() -> None:
    spec: Obj = {"engine": {"type": "vllm", "image": "vllm:1", "nodes": 2}}
    of = version("v1", uri="pvc://shared/v1")
    hashed = revision_of(built(spec), of, SETTINGS)
    body = deployment(built(spec), of, hashed, 1, SETTINGS, ago(600)) | {"status": {"replicas": 1}}
    leader: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lead", "namespace": "team", "uid": "uid-lead", **body["spec"]["template"]["metadata"]},
        "spec": {"nodeName": "node-1"},
        "status": {"podIP": "10.0.0.7"},
    }
    cluster = Cluster(service(spec), body, leader, worker(body["spec"]["template"], leader, 1, 0))
    [found] = (await cluster.look()).revisions
    [group] = found.groups
    assert (found.nodes, group.name, len(group.workers)) == (2, "lead", 1)
    assert found.problem == "0 of 2 pods of the group lead run their engine"
    running = {"podIP": "10.0.0.7", "initContainerStatuses": [{"name": "engine", "state": {"running": {}}}]}
    cluster.put(leader | {"status": running})
    [found] = (await cluster.look()).revisions
    assert found.problem == "1 of 2 pods of the group lead run their engine"
    assert found.unstarted  # its worker may wait for a node
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    stuck = worker(body["spec"]["template"], leader, 1, 0)
    cluster.put(stuck | {"status": {"containerStatuses": [{"name": "engine", "state": {"waiting": waiting}}]}})
    [found] = (await cluster.look()).revisions
    assert found.problem.startswith("ImagePullBackOff: container engine of lead-")


async def test_the_start_of_a_revisions_pod_is_read_once() -> None:
    body = served("v1", "stable")
    revision = body["metadata"]["labels"][REVISION]
    ready = coldstart_pod()
    ready |= {"apiVersion": "v1", "kind": "Pod"}
    ready["metadata"]["labels"] = {SERVICE: "desk", STAGE: "serve", REVISION: revision}
    [found] = (await Cluster(service(), body, ready).look()).revisions
    assert found.cold_start is not None
    assert found.cold_start.total_seconds == 100

    known = found.cold_start.model_copy(update={"total_seconds": 7})
    written = {"stable": RevisionStatus(revision=revision, version="v1", cold_start=known).dump()}
    [again] = (await Cluster(service() | {"status": written}, body, ready).look()).revisions
    assert again.cold_start == known


@pytest.mark.parametrize(("code", "reason"), [(75, "NoCertificate"), (78, "NoKeys")])
async def test_a_secret_that_is_not_there_yet_is_no_fault_of_the_revision(code: int, reason: str) -> None:
    body = served("v1", "candidate", available=0)
    labels = {SERVICE: "desk", STAGE: "serve", REVISION: body["metadata"]["labels"][REVISION]}
    ended = {"terminated": {"exitCode": code, "message": f'{{"kind":"Error","reason":"{reason}","message":"spec"}}'}}
    proxy = {"name": "proxy", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": labels},
        "status": {
            "initContainerStatuses": [{"name": "engine", "state": {"running": {}}}],
            "containerStatuses": [proxy],
        },
    }
    [found] = (await Cluster(service(), body, pod).look()).revisions
    assert (found.problem, found.unstarted, found.broken) == (f"{reason}: spec", True, False)


async def test_a_pod_with_wrong_input_makes_its_revision_broken() -> None:
    body = served("v1", "candidate", available=0)
    labels = {SERVICE: "desk", STAGE: "serve", REVISION: body["metadata"]["labels"][REVISION]}
    ended = {
        "terminated": {"exitCode": 78, "message": '{"kind":"Error","reason":"DigestMismatch","message":"changed"}'}
    }
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": labels},
        "status": {"initContainerStatuses": [{"name": "fetch", "state": ended}]},
    }
    [found] = (await Cluster(service(), body, pod).look()).revisions
    assert (found.problem, found.broken) == ("DigestMismatch: changed", True)
    ending = pod | {"metadata": pod["metadata"] | {"deletionTimestamp": timestamp(NOW)}}
    [found] = (await Cluster(service(), body, ending).look()).revisions
    assert not found.broken  # a pod of an earlier try


async def test_a_settled_service_asks_prometheus_nothing() -> None:
    cluster = Cluster(service(retraining()), model_version("v1", phase="Approved"), served("v1", "stable"))
    await cluster.look()
    assert cluster.asked.queries == []


@pytest.mark.parametrize(
    ("objects", "asks"),
    [
        ([served("v2", "candidate", notes={ANALYSIS: timestamp(ago(30))})], "driftloop_requests_total"),
        ([served("v2", "candidate")], None),  # no analysis yet
    ],
)
async def test_the_arms_are_read_during_an_analysis(objects: list[Obj], asks: str | None) -> None:
    cluster = Cluster(service(), served("v1", "stable"), *objects)
    found = await cluster.look()
    assert found.arms is None
    assert bool(cluster.asked.queries) is (asks is not None)
    assert all(str(asks) in query for query in cluster.asked.queries)


@pytest.mark.parametrize(("seconds", "asks"), [(10, False), (60, True)])
async def test_a_paused_canary_asks_each_minute(seconds: float, asks: bool) -> None:
    began = timestamp(ago(90_000))
    analysis = {"started": began, "looked": timestamp(ago(seconds)), "verdict": "Paused", "message": "few"}
    cluster = Cluster(
        service(status={"phase": "Paused", "analysis": analysis}),
        served("v1", "stable"),
        served("v2", "candidate", notes={ANALYSIS: began}),
    )
    await cluster.look()
    assert bool(cluster.asked.queries) is asks


@pytest.mark.parametrize(("seconds", "asks"), [(5, False), (60, True)])
async def test_counters_are_read_when_a_window_is_over(seconds: float, asks: bool) -> None:
    drift = {"version": "v1", "consumedUntil": timestamp(ago(seconds))}
    cluster = Cluster(service(status={"drift": drift}), served("v1", "stable"))
    assert (await cluster.look()).counters is None
    assert bool(cluster.asked.queries) is asks


ALARM = {"version": "v1", "consumedUntil": timestamp(ago(1)), "alarm": True, "changePoint": timestamp(ago(900))}
NAMING = {"drift": {"topics": True}}


def ready_pod(name: str, revision: str, ready: str = "True") -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {SERVICE: "desk", STAGE: "serve", REVISION: revision}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


async def told_by(spec: Obj, drift: Obj, **pods: int | None) -> tuple[TopicsReport | None, Told]:
    asked, stable = Told(**pods), served("v1", "stable")
    of = stable["metadata"]["labels"][REVISION]
    objects = [ready_pod(name, of, "False" if name == "unready" else "True") for name in pods]
    found = await Cluster(service(spec, {"drift": drift}), stable, *objects, asked=asked).look()
    return found.topics, asked


async def test_the_pod_with_most_requests_since_the_change_tells_the_topics() -> None:
    topics, asked = await told_by(NAMING, ALARM, p1=40, p2=70, p3=None, p4=19, unready=500)
    assert topics is not None
    assert topics.since == 70
    assert asked.questions == [(name, timestamp(ago(900)), 2.0) for name in ("p1", "p2", "p3", "p4")]


async def test_topics_are_unknown_without_an_answer() -> None:
    assert (await told_by(NAMING, ALARM, p1=None, p2=19))[0] is None
    assert (await told_by(NAMING, ALARM))[0] is None


@pytest.mark.parametrize(
    ("spec", "drift", "asks"),
    [
        (NAMING, ALARM | {"topicsAt": timestamp(ago(60))}, True),
        (NAMING, ALARM | {"topicsAt": timestamp(ago(59))}, False),
        ({}, ALARM, False),
        ({"drift": {"topics": True, "enabled": False}}, ALARM, False),
        (NAMING, ALARM | {"alarm": False}, False),
        (NAMING, ALARM | {"heldFrom": "v0"}, False),
        (NAMING, ALARM | {"version": "v0"}, False),
    ],
)
async def test_pods_are_asked_once_a_minute_during_an_alarm_if_the_service_allows_it(
    spec: Obj, drift: Obj, asks: bool
) -> None:
    assert bool((await told_by(spec, drift, p1=40))[1].questions) is asks


async def test_samples_are_read_when_something_asks_for_a_retraining() -> None:
    started = timestamp(ago(100))
    record = {"key": "a/1", "alertname": ALERT_NAME, "started": started, "received": started, "source": "Poll"}
    cluster = Cluster(
        service(retraining(), {"alerts": [record], "drift": {"version": "v1", "lastAlarm": started}}),
        model_version("v1", phase="Approved"),
        served("v1", "stable"),
    )
    assert (await cluster.look()).samples is None
    assert "driftloop_feedback_eligible_total" in cluster.asked.queries[0]


async def test_the_keys_are_new_at_each_look() -> None:
    cluster = Cluster(service())
    one, other = await cluster.look(), await cluster.look()
    assert one.keys != other.keys
    assert min(len(one.keys.signing_key), len(one.keys.token)) >= 32
    assert replace(one, keys=other.keys) == other


async def test_a_revision_whose_pods_are_refused_says_so_in_the_api_servers_words() -> None:
    words = 'pods "desk-1" is forbidden: serviceaccount "nope" not found'
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}
    body = served("v1", "stable", available=0)
    body["status"]["conditions"] = [failure]
    (revision,) = (await Cluster(service(), body).look()).revisions
    assert revision.problem == f"PodsRefused: {words}"
    assert not revision.broken


async def test_the_route_is_read_only_for_a_gateway_or_while_one_may_be_left() -> None:
    owned = {"ownerReferences": [owner_reference(built().service)]}
    gateway = {"gateway": {"name": "public"}}
    canary = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "desk-canary", **owned}}
    other = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "desk-shadow", **owned}}
    for objects, asked in (
        ([service(gateway)], ["team/desk"]),
        ([service(), canary], ["team/desk"]),
        ([service(), other], []),
    ):
        cluster = Cluster(*objects)
        assert ((await cluster.look()).route is not None) == bool(asked)
        assert cluster.routes.asked == asked


class Busy(Asked):
    """Pods and doors that say how busy they are; None: one that does not answer."""

    def __init__(self, **said: Activity | None) -> None:
        super().__init__()
        self.said, self.looked = said, list[str]()

    async def activity(self, pod: Obj) -> Activity:
        name = pod["metadata"]["name"]
        self.looked.append(name)
        if (known := self.said[name]) is None:
            raise MetricsUnavailable("no answer")
        return known


QUIET, USED = Activity(running=0, idle_seconds=700), Activity(running=0, idle_seconds=3)


def running(name: str) -> bool:
    """Whether a pod of these tests has not been evicted."""
    return "evicted" not in name


def resting(asked: Busy, stable: Obj, ending: tuple[str, ...] = (), spec: Obj | None = None) -> Cluster:
    """A service with scaleToZero and pods whose names begin with d (a door) or p."""
    cluster = Cluster(service({"scaleToZero": {}} if spec is None else spec), stable, asked=asked)
    for name in asked.said:
        revision = stable["metadata"]["labels"][REVISION]
        stage = {STAGE: "door"} if name.startswith("d") else {STAGE: "serve", REVISION: revision}
        end = {"deletionTimestamp": timestamp(NOW)} if name in ending else {}
        meta = {"name": name, "labels": {SERVICE: "desk"} | stage} | end
        status = {"phase": "Running", "podIP": "10.0.0.1"} if running(name) else {"phase": "Failed"}
        status = status if name != "d-new" else {"phase": "Pending"}
        cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})
    return cluster


async def test_of_a_service_that_may_sleep_pods_and_door_are_asked() -> None:
    asked = Busy(p1=QUIET, p2=QUIET, d1=Activity(running=0))
    found = await resting(asked, served("v1", "stable")).look()
    assert found.requests == Requests((QUIET, QUIET), (Activity(running=0),))
    silent = Busy(p1=QUIET, p2=None, d1=None)
    found = await resting(silent, served("v1", "stable")).look()
    assert found.requests == Requests((QUIET, None), (None,))
    assert (await resting(Busy(p1=QUIET), served("v1", "stable"), spec={}).look()).requests is None


async def test_pods_that_were_evicted_and_doors_that_are_not_there_yet_are_not_asked() -> None:
    """The kubelet leaves evicted pods, and none of them ever answers."""
    asked = Busy(**{"p1": QUIET, "p-evicted": None, "d1": QUIET, "d-evicted": None, "d-new": None})
    found = await resting(asked, served("v1", "stable")).look()
    assert found.requests == Requests((QUIET,), (QUIET,))


async def test_the_pods_of_a_service_that_is_used_are_not_all_asked() -> None:
    asked = Busy(**{f"p{number:03}": USED for number in range(100)}, d1=Activity(running=0))
    await resting(asked, served("v1", "stable")).look()
    assert len(asked.looked) == 1 + MOST_PODS


async def test_while_it_sleeps_only_doors_are_asked_also_those_that_stop_if_they_answer() -> None:
    note = {SLEEP: f"Asleep {timestamp(ago(60))}"}
    held = Activity(running=2, held=2, idle_seconds=0)
    asked = Busy(p1=QUIET, d1=Activity(running=0), d2=held, d3=None)
    found = await resting(asked, served("v1", "stable", 0, note), ending=("d2", "d3")).look()
    assert found.requests == Requests((), (Activity(running=0), held))
    [stable] = found.revisions
    assert stable.sleep == Sleep("Asleep", ago(60))
    waking = Busy(d1=held)
    note = {SLEEP: f"Waking {timestamp(ago(60))}"}
    assert (await resting(waking, served("v1", "stable", 0, note)).look()).requests is None


@pytest.mark.parametrize("note", ["", "Asleep", "Asleep soon", "Drowsy 2026-03-01T12:00:00Z"])
async def test_a_mark_that_cannot_be_read_is_none(note: str) -> None:
    found = await resting(Busy(), served("v1", "stable", notes={SLEEP: note})).look()
    assert found.revisions[0].sleep is None


async def test_the_door_is_found_among_the_deployments() -> None:
    door = door_deployment(built({"scaleToZero": {}}), SETTINGS)
    found = await Cluster(service({"scaleToZero": {}}), served("v1", "stable"), door).look()
    assert found.door is not None
    assert found.door["metadata"]["name"] == door["metadata"]["name"]
    assert [revision.version for revision in found.revisions] == ["v1"]
