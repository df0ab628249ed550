"""The steps of the loop. Each function is one step of the demo and shows what it waits for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from demo import accuracy
from demo.kube import JUDGED, Kube, condition, conditions
from demo.pools import FAMILY, Pools
from demo.reads import Obj
from demo.timeline import Timeline, bar, clock
from demo.traffic import Traffic

SERVICE = FAMILY
BASE = "support-base"
FIRST = "support-desk"


@dataclass(frozen=True)
class Pace:
    """Rates and amounts of a run. The tests use a shorter form."""

    steady_requests: int = 900
    after_requests: int = 900
    rate: float = 20.0
    training_rate: float = 6.0
    rollout_rate: float = 20.0
    shifted_share: float = 0.7
    report_rows: int = 1000
    job_seconds: float = 900


@dataclass
class Results:
    """Results of the steps, for the report."""

    versions: list[Obj] = field(default_factory=list)
    first: str = ""
    second: str = ""
    alert: dict[str, Any] = field(default_factory=dict)
    hops: dict[str, float] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, tuple[float, float]] = field(default_factory=dict)
    requests: dict[str, Any] = field(default_factory=dict)
    controls: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """One run of the demo in one namespace."""

    def __init__(self, kube: Kube, namespace: str, timeline: Timeline, pools: Pools, pace: Pace) -> None:
        self.kube, self.namespace, self.timeline, self.pools, self.pace = kube, namespace, timeline, pools, pace
        self.results = Results()

    # Objects in the cluster.

    def get(self, kind: str, name: str) -> Obj:
        """The object, or an empty one."""
        return self.kube.get(kind, name, self.namespace) or {}

    def service(self) -> Obj:
        status: Obj = self.get("inferenceservice", SERVICE).get("status", {})
        return status

    # Steps.

    def job(self, name: str) -> Obj:
        """Wait until a FineTuneJob has succeeded and its version was judged. Shows progress. Returns the version."""
        end = time.monotonic() + self.pace.job_seconds
        shown = ""
        while time.monotonic() < end:
            job = self.get("finetunejob", name)
            status = job.get("status", {})
            phase = status.get("phase", "Pending")
            if phase != shown:
                self.timeline.event(f"{name}: {phase}")
                shown = phase
            if phase == "Failed" or condition(job, "Stalled").get("status") == "True":
                raise RuntimeError(f"{name}: {conditions(job)}")
            if phase == "Succeeded":
                return self.judged(status["version"])
            progress = status.get("progress") or {}
            if phase == "Training" and progress:
                self.timeline.live(f"{name} {_progress(progress)}")
            time.sleep(1)
        raise TimeoutError(
            f"{name}: not done after {self.pace.job_seconds:.0f} s: {conditions(self.get('finetunejob', name))}"
        )

    def judged(self, name: str) -> Obj:
        """Wait until a ModelVersion is judged."""
        version = self.kube.phase("modelversion", name, self.namespace, JUDGED, self.pace.job_seconds)
        self.timeline.event(f"{name}: {version['status']['phase']} ({version['status'].get('gateSummary')})")
        return version

    def served(self, version: str) -> None:
        """Wait until `version` is stable and no rollout is in progress."""

        def stable() -> bool:
            status = self.service()
            return (status.get("stable") or {}).get("version") == version and status.get("phase") == "Serving"

        self.kube.wait(
            f"{version} as stable", stable, 600, tell=lambda: conditions(self.get("inferenceservice", SERVICE))
        )
        self.timeline.event(f"{SERVICE} serves {version}")

    def serving(self, name: str) -> None:
        """Wait until an InferenceService serves."""
        self.kube.phase("inferenceservice", name, self.namespace, ["Serving"], 300)

    def until_sent(self, traffic: Traffic, phase: str, requests: int) -> None:
        """Wait until `requests` requests of a phase were sent. Raises TimeoutError below a fifth of the rate."""
        started = time.monotonic()
        limit = requests / self.pace.rate * 5 + 120
        while traffic.sent(phase) < requests:
            if time.monotonic() - started > limit:
                raise TimeoutError(f"{phase}: {traffic.sent(phase)} of {requests} requests after {limit:.0f} s")
            accuracy_text = f"accuracy {traffic.accuracy(phase):.3f}, " if traffic.sent(phase) else ""
            self.timeline.live(
                f"{phase} {bar(100 * traffic.sent(phase) / requests)} {traffic.sent(phase)} requests, "
                f"{traffic.totals()['failed']} failed, {accuracy_text}{clock(time.monotonic() - started)}"
            )
            time.sleep(1)

    def steady(self, traffic: Traffic) -> None:
        """Send in-domain traffic: no alarm may occur."""
        traffic.phase("steady", self.pace.rate, old=1.0)
        self.until_sent(traffic, "steady", self.pace.steady_requests)
        self.results.alert["alarmsBeforeShift"] = self._alarms()
        drift = self.service().get("drift") or {}
        self.timeline.event(
            f"{traffic.sent('steady')} requests, accuracy {traffic.accuracy('steady'):.3f}, "
            f"evidence {drift.get('logEvidence')} of {drift.get('threshold')}, alarms {self._alarms()}"
        )

    def shift(self, traffic: Traffic) -> None:
        """Shift the domain. Wait for the alarm, and for the job that it starts."""
        share = self.pace.shifted_share
        self.timeline.event(f"the domain shifts: {share:.0%} of the requests are about something new")
        traffic.phase("shift", self.pace.rate, old=1 - share, shifted=share)
        alarm: Obj = self.kube.wait("the drift alarm", self._alarm, 600, tell=lambda: str(self.service().get("drift")))
        self.results.alert["requestsBeforeAlarm"] = traffic.sent("shift")
        self.timeline.event(
            f"drift alarm after {traffic.sent('shift')} shifted requests (accuracy {traffic.accuracy('shift'):.3f}): "
            f"{alarm.get('message')}"
        )
        record: Obj = self.kube.wait("the alert's webhook", self._recorded, 120)
        self.timeline.event(f"alert {record['alertname']} recorded ({record['source']})")
        name, waited = self.retraining()
        self._hops(record, self.get("finetunejob", name), waited)
        traffic.phase("retraining", self.pace.training_rate, old=1 - share, shifted=share)
        version = self.job(name)
        self.results.train = _training(self.get("finetunejob", name))
        if version["status"]["phase"] != "Approved":
            raise RuntimeError(
                f"{version['metadata']['name']}: {version['status']['phase']}: {version['status']['gates']}"
            )
        self.results.versions.append(version)
        self.results.second = version["metadata"]["name"]

    def retraining(self) -> tuple[str, bool]:
        """Wait until the alert has started a job. Returns its name, and whether it had to wait for corrections."""
        shown: list[str] = []

        def started() -> str | None:
            retraining = self.service().get("retraining") or {}
            if retraining.get("state", "Idle") == "Idle":
                return None  # the state from before the alert: the operator decides after the webhook has recorded it
            message: str = retraining["message"]
            if message.split(":")[0] not in shown:
                shown.append(message.split(":")[0])
                self.timeline.event(f"retraining {message}")
            self.timeline.live(f"retraining {message}")
            job: str | None = retraining.get("job")
            return job

        name: str = self.kube.wait("retraining", started, 900, tell=lambda: str(self.service().get("retraining")))
        return name, any("Waiting" in message for message in shown)

    def rollout(self, traffic: Traffic) -> None:
        """Wait until the new version is promoted under load: canary, analysis, promotion."""
        share = self.pace.shifted_share
        traffic.phase("rollout", self.pace.rollout_rate, old=1 - share, shifted=share)
        shown = ""

        def promoted() -> bool:
            nonlocal shown
            status = self.service()
            if status.get("traffic") != shown:
                shown = status.get("traffic") or ""
                self.timeline.event(f"rollout: stable/candidate {shown}")
            return (status.get("stable") or {}).get("version") == self.results.second and status.get(
                "phase"
            ) == "Serving"

        self.kube.wait("promotion", promoted, 900, tell=lambda: str(self.service().get("analysis")))
        self.timeline.event(f"{self.results.second} promoted: {(self.service().get('analysis') or {}).get('message')}")

    def after(self, traffic: Traffic) -> None:
        """Continue the shifted traffic: no second alarm may occur."""
        before, share = self._alarms(), self.pace.shifted_share
        traffic.phase("after", self.pace.rate, old=1 - share, shifted=share)
        self.until_sent(traffic, "after", self.pace.after_requests)
        self.results.alert["alarmsAfterPromotion"] = self._alarms() - before
        self.timeline.event(
            f"{traffic.sent('after')} more requests, accuracy {traffic.accuracy('after'):.3f}, "
            f"further alarms {self.results.alert['alarmsAfterPromotion']}"
        )

    def serve_both(self) -> None:
        """Create a service for each version, to measure them."""
        for name, version in self._report_services().items():
            self.kube.apply(accuracy.pinned_service(self.namespace, name, FAMILY, version))

    def measure(self) -> None:
        """Measure the accuracy of both versions on both domains, with rows that no pod has seen."""
        for name, version in self._report_services().items():
            self.serving(name)
            old, shifted = (
                accuracy.measure(self.kube, self.namespace, name, rows[: self.pace.report_rows])
                for rows in (self.pools.report, self.pools.shifted_report)
            )
            self.results.accuracy[version] = (old, shifted)
            self.timeline.event(f"{version}: accuracy {old:.3f} in the old domain, {shifted:.3f} in the shifted one")
            self.kube.run("delete", "inferenceservice", name, "-n", self.namespace, "--wait=false")

    # Helpers.

    def _report_services(self) -> dict[str, str]:
        return {"report-1": self.results.first, "report-2": self.results.second}

    def _alarm(self) -> Obj | None:
        drift: Obj = self.service().get("drift") or {}
        return drift if drift.get("alarm") or self._alarms() else None

    def _alarms(self) -> int:
        return len(self.service().get("alerts") or [])

    def _recorded(self) -> Obj | None:
        alerts: list[Obj] = self.service().get("alerts") or []
        return alerts[0] if alerts else None

    def _hops(self, record: Obj, job: Obj, waited: bool) -> None:
        retraining = self.service().get("retraining") or {}
        created = _time(job["metadata"]["creationTimestamp"])
        received = _time(record["received"])
        # `since` has whole seconds. Compared with the exact time of receipt, a decision would come before its alert.
        decided = _time(retraining["since"]) - received.replace(microsecond=0)
        self.results.alert["webhookToDecisionSeconds"] = decided.total_seconds()
        self.results.alert["webhookToJobSeconds"] = None if waited else (created - received).total_seconds()
        self.results.hops["alertToWebhookSeconds"] = (received - _time(record["started"])).total_seconds()
        self.results.hops["webhookToJobSeconds"] = (created - received).total_seconds()


def run(loop: Loop, traffic: Callable[[], Traffic], promoted: Callable[[], None]) -> None:
    """Run all steps from the base model to the second version in service. Calls `promoted` after the promotion."""
    results = loop.results
    base = loop.job(BASE)
    results.versions.append(base)
    first = loop.job(FIRST)
    if first["status"]["phase"] != "Approved":
        raise RuntimeError(f"{first['metadata']['name']}: {first['status']['phase']}: {first['status'].get('gates')}")
    results.versions.append(first)
    results.first = first["metadata"]["name"]
    loop.served(results.first)
    with traffic() as running:
        loop.steady(running)
        loop.shift(running)
        loop.rollout(running)
        promoted()
        loop.after(running)
    results.requests = running.totals()


def _training(job: Obj) -> dict[str, Any]:
    """Facts about a training, for the report."""
    status = job["status"]
    return {
        "nodes": job["spec"]["compute"]["nodes"],
        "worldSize": status["plan"]["worldSize"],
        "mesh": status["plan"]["strategy"],
        "tokensPerSecond": (status.get("progress") or {}).get("tokensPerSecond"),
    }


def _progress(progress: Obj) -> str:
    """Bar and steps, with loss and ETA if they are known."""
    known = [f"{what} {progress[field]}" for what, field in (("loss", "loss"), ("ETA", "eta")) if field in progress]
    return " ".join([bar(progress["percent"]), f"step {progress['step']}/{progress['totalSteps']}", *known])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
