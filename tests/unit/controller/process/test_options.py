"""Flags and their environment variables."""

from argparse import ArgumentError, ArgumentParser
from typing import Any

import pytest

from driftloop.api.acceptance import Acceptance
from driftloop.controller.process.options import Options, add_arguments, options

IMAGES = ["--trainer-image=t", "--server-image=s"]


def parsed(*flags: str) -> Options:
    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return options(parser.parse_args([*IMAGES, *flags]))


def test_defaults_and_flags() -> None:
    found = parsed("--namespaces=a, b", "--child-labels=x=1,y=", "--alertmanager-urls=http://a,https://b")
    assert found.settings.namespaces == ("a", "b")
    assert found.settings.labels == {"x": "1", "y": ""}
    assert found.settings.alertmanager_urls == ("http://a", "https://b")
    assert parsed().settings.namespaces == ()
    assert (parsed().settings.vllm_image, parsed("--vllm-image=v").settings.vllm_image) == (None, "v")
    assert (parsed().election.duration, parsed().workers) == (15.0, 8)


def test_the_environment_gives_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_QPS", "7.5")
    monkeypatch.setenv("DRIFTLOOP_NAMESPACES", "a,b")
    assert parsed().qps == 7.5
    assert parsed("--qps=1").qps == 1
    assert parsed().settings.namespaces == ("a", "b")


@pytest.mark.parametrize(
    "flag",
    [
        "--qps=0",
        "--workers=0",
        "--health-port=70000",
        "--prometheus-url=ftp://x",
        "--child-labels=novalue",
        "--lease-seconds=5",
    ],
)
def test_nonsense_is_refused_by_name(flag: str, capsys: Any) -> None:
    with pytest.raises((SystemExit, Exception)) as caught:
        parsed(flag)
    said = str(caught.value) + capsys.readouterr().err
    assert flag.partition("=")[0] in said or "lease duration" in said


def test_the_bar_of_all_services_is_read_strictly() -> None:
    assert parsed().settings.acceptance == Acceptance()
    flag = '--acceptance={"sameEngine":true,"maxAgeSeconds":86400,"suites":[{"kind":"floor","minimum":1,"minItems":9}]}'
    found = parsed(flag).settings.acceptance
    assert (found.same_engine, found.max_age_seconds, found.suites[0].minimum) == (True, 86400, 1.0)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("{", "the document"),
        ("[]", "the document"),
        ('{"sameEngines":true}', "sameEngines"),
        ('{"same_engine":true}', "same_engine"),
        ('{"sameEngine":"yes"}', "sameEngine"),
        ('{"maxAgeSeconds":1}', "maxAgeSeconds"),
        ('{"suites":[{"kind":"target"},{"kind":"ceiling"}]}', "suites.1.kind"),
        ('{"suites":[{"kind":"floor","minItems":"9"}]}', "suites.0.minItems"),
        ('{"suites":[{"kind":"floor","maxDelta":0.1}]}', "maxDelta is for kind retention"),
    ],
)
def test_a_wrong_bar_is_refused_by_the_name_of_its_field(document: str, fault: str) -> None:
    with pytest.raises(ArgumentError, match=fault) as caught:
        parsed(f"--acceptance={document}")
    assert "--acceptance" in str(caught.value)


def test_images_are_needed() -> None:
    parser = ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ValueError, match="set --server-image"):
        options(parser.parse_args(["--trainer-image=t"]))
