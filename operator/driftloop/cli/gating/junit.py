"""The report of `driftloop gate` as JUnit XML, which CI systems show as tests: one test per gate. Pure."""

import re
from typing import assert_never
from xml.etree.ElementTree import Element, SubElement, tostring

from driftloop.api.modelversion import Gate
from driftloop.cli.gating.report import Report

SUITE = "driftloop.gate"
# Characters that XML 1.0 does not allow, not even as references. A message may contain a model's answer.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """The document. A gate that is inconclusive is an error, never a passed test."""
    root = Element("testsuites")
    suite = SubElement(root, "testsuite", name=SUITE)
    for gate in report.gates:
        _add(suite, gate)
    if not report.gates:
        case = SubElement(suite, "testcase", classname=SUITE, name="evaluation")
        _ending(case, "error", "Unknown", report.summary)
    for element in (root, suite):
        element.set("tests", str(len(suite)))
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            element.set(count, str(len(suite.findall(f"testcase/{tag}"))))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add(suite: Element, gate: Gate) -> None:
    case = SubElement(suite, "testcase", classname=f"{SUITE}.{gate.kind}", name=gate.name)
    match gate.verdict:
        case "Pass":
            SubElement(case, "system-out").text = _allowed(gate.message)
        case "Fail":
            _ending(case, "failure", gate.verdict, gate.message)
        case "Inconclusive":
            _ending(case, "error", gate.verdict, gate.message)
        case "NotApplicable":
            SubElement(case, "skipped", message=_allowed(gate.message))
        case never:
            assert_never(never)


def _ending(case: Element, tag: str, kind: str, message: str) -> None:
    SubElement(case, tag, type=kind, message=_allowed(message)).text = _allowed(message)


def _allowed(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
