"""Argo CD's health checks, run in Lua 5.1 as Argo CD does, on the cases that lie beside them in its own layout."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

CHECKS = Path(__file__).parents[3] / "deploy/argocd/driftloop.dev"
KINDS = ("FineTuneJob", "InferenceService", "ModelVersion")


def cases() -> list[Any]:
    return [
        pytest.param(kind, case["inputPath"], case["healthStatus"], id=f"{kind}-{Path(case['inputPath']).stem}")
        for kind in KINDS
        for case in yaml.safe_load((CHECKS / kind / "health_test.yaml").read_text())["tests"]
    ]


@pytest.mark.parametrize(("kind", "path", "expected"), cases())
def test_health(kind: str, path: str, expected: dict[str, str]) -> None:
    lua = LuaRuntime(register_eval=False)
    lua.globals().obj = lua.table_from(yaml.safe_load((CHECKS / kind / path).read_text()), recursive=True)
    found = lua.execute((CHECKS / kind / "health.lua").read_text())
    assert dict(found) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_in_testdata_is_a_case(kind: str) -> None:
    listed = {case.values[1] for case in cases() if case.values[0] == kind}
    assert listed == {f"testdata/{path.name}" for path in (CHECKS / kind / "testdata").iterdir()}


def test_the_patch_of_argocds_settings_holds_these_very_checks() -> None:
    data = yaml.safe_load((CHECKS.parent / "argocd-cm.yaml").read_text())["data"]
    prefix = "resource.customizations.health.driftloop.dev_"
    assert data == {prefix + kind: (CHECKS / kind / "health.lua").read_text() for kind in KINDS}
