"""What a version is compared with, and what follows from that: each fact once a reconcile."""

from typing import Any

from driftloop.controller.kinds.engines import engine_hash
from driftloop.controller.kinds.modelversion.comparison import Baseline, Comparison, NoBaseline, Unknown, comparison_of
from driftloop.controller.kinds.modelversion.evaluation import evaluation_of, is_current
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.stages import NOW, SETTINGS, Cluster, deployment, digest, observe_version, service, version

LATER = "2026-01-01T11:30:00Z"
DESK = service("desk")
STABLE = version("support-1", "1")
NEWER = version("support-2", "2", LATER)


def comparison(body: Obj = NEWER, status: Obj | None = None, **observed: Any) -> Comparison:
    served = {"services": [DESK], "deployments": (deployment(DESK, "support-1"),), "versions": (STABLE, NEWER)}
    return comparison_of(observe_version(body, Cluster(), status, **(served | observed)), SETTINGS, NOW)


def test_a_newer_version_is_a_candidate_against_the_stable_one() -> None:
    found = comparison()
    assert isinstance(found.baseline, Baseline)
    assert (found.baseline.status.version, found.baseline.digest) == ("support-1", digest("1"))
    assert found.is_candidate
    assert found.is_compared


def test_of_several_services_the_newest_stable_version_is_compared_with() -> None:
    """A playground of an old version was the first by name: what the other service serves was never asked."""
    old = version("support-0", "0", "2026-01-01T10:00:00Z")
    playground = service("a-playground")
    pinned = service("pinned", model={"family": "support", "version": "support-2"})
    newest = version("support-3", "3", "2026-01-01T11:45:00Z")
    served = (
        deployment(playground, "support-0"),
        deployment(DESK, "support-1"),
        deployment(pinned, "support-2"),
    )
    objects: Any = {"deployments": served, "versions": (old, STABLE, NEWER, newest)}
    found = comparison(newest, services=[playground, DESK, pinned], **objects).baseline
    assert isinstance(found, Baseline)
    assert (found.status.service, found.status.version) == ("desk", "support-1")
    alone = comparison(newest, services=[pinned], **objects).baseline
    assert isinstance(alone, Baseline)
    assert alone.status.version == "support-2"


def test_the_engine_is_that_of_the_service_that_is_compared_with() -> None:
    unserved = service("a-new-one", engine={"maxNumSeqs": 1})
    assert comparison(services=[unserved, DESK]).engine.max_num_seqs == 32
    assert comparison(services=[unserved, DESK], deployments=()).engine.max_num_seqs == 1


def test_an_older_version_and_one_that_is_at_work_are_no_candidates() -> None:
    oldest = version("support-0", "0", "2026-01-01T10:00:00Z")
    assert not comparison(oldest).is_candidate
    both = (deployment(DESK, "support-1"), deployment(DESK, "support-2", role="candidate"))
    assert not comparison(deployments=both).is_candidate


def test_nothing_is_not_the_same_as_what_cannot_be_read() -> None:
    assert isinstance(comparison(services=[]).baseline, NoBaseline)
    assert isinstance(comparison(deployments=()).baseline, NoBaseline)
    assert isinstance(comparison(STABLE).baseline, NoBaseline)
    assert isinstance(comparison(versions=(NEWER,)).baseline, Unknown)


def test_a_judgement_is_current_while_the_same_version_serves_on_the_same_engine() -> None:
    engine = engine_hash(comparison().engine)
    status = {
        "phase": "Approved",
        "engine": engine,
        "baseline": {"version": "support-1", "digest": digest("1"), "service": "desk"},
    }
    assert is_current(comparison(status=status))
    assert is_current(comparison(status=status, versions=(NEWER,)))  # nobody can tell otherwise
    assert not is_current(comparison(status=status | {"engine": "00000000"}))
    assert not is_current(comparison(status=status, deployments=()))
    assert not is_current(comparison(status=status, versions=(version("support-1", "3"), NEWER)))


def test_a_retry_is_asked_for_until_it_was_followed() -> None:
    noted = NEWER | {"metadata": NEWER["metadata"] | {"annotations": {RETRY: "1"}}}
    assert not comparison().wants_retry
    assert comparison(noted).wants_retry
    assert not comparison(noted, {"retried": "1"}).wants_retry


def test_the_stable_version_is_asked_only_where_something_is_compared() -> None:
    floor = version("support-2", "2", LATER, evaluation={"suites": []})
    recorded = version("support-2", "2", LATER, evaluation={"contract": {"uri": "pvc://shared/requests.jsonl"}})
    for body, asked in ((NEWER, True), (floor, False), (recorded, True)):
        found = comparison(body)
        assert isinstance(found.baseline, Baseline)
        assert (evaluation_of(found, found.baseline).answers_name is not None) == asked
