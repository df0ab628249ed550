"""The JUnit XML of a report, as an XML parser reads it."""

from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from driftloop.cli.gating.junit import junit
from driftloop.cli.gating.report import Judged, Unjudged
from unit.cli.gating.reports import API, BROKEN, FAILED, PASSED


def parsed(document: str) -> Element:
    return ElementTree.fromstring(document.encode())


def counts(root: Element) -> tuple[str | None, ...]:
    return tuple(root.get(name) for name in ("tests", "failures", "errors", "skipped"))


def test_a_gate_is_a_test_that_passed_failed_or_could_not_tell() -> None:
    root = parsed(junit(FAILED))
    assert (root.tag, [child.tag for child in root]) == ("testsuites", ["testsuite"])
    assert counts(root) == counts(root[0]) == ("4", "1", "1", "0")
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert list(cases) == ["digest", "api", "old", "gain"]
    assert cases["old"].get("classname") == "driftloop.gate.retention"
    (failure,) = cases["old"]
    assert (failure.tag, failure.get("type"), failure.get("message"), failure.text) == (
        "failure",
        "Fail",
        "a loss",
        "a loss",
    )
    assert [child.tag for child in cases["gain"]] == ["error"]
    assert [child.tag for child in cases["api"]] == ["system-out"]


def test_a_gate_that_does_not_apply_is_skipped() -> None:
    assert counts(parsed(junit(PASSED))) == ("4", "0", "0", "1")


def test_what_could_not_be_judged_is_an_error_and_never_an_empty_success() -> None:
    root = parsed(junit(BROKEN))
    assert counts(root) == ("1", "0", "1", "0")
    (error,) = root.iter("error")
    assert error.get("message") == "candidate: the engine: NoMemory: give it more"


def test_no_answer_in_a_message_breaks_the_document() -> None:
    message = "said '</failure>\x00\x1b[31m\ud800\uffff & 東京 🙂'"
    gate = API.model_copy(update={"verdict": "Fail", "message": message})
    root = parsed(junit(replace(FAILED, outcome=Judged((gate,), "Rejected", "x"))))
    (failure,) = root.iter("failure")
    assert failure.text == "said '</failure>\ufffd\ufffd[31m\ufffd\ufffd & 東京 🙂'"
    assert counts(parsed(junit(replace(BROKEN, outcome=Unjudged(message))))) == ("1", "0", "1", "0")
