"""Pinning a version changes one field of a text, and nothing else."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from driftloop.cli.main import main
from driftloop.cli.manifests import BadInput
from driftloop.cli.pinning import pinned
from driftloop.cli.run import suffixed

V = "support-1f0c9a3e"
SERVICE = """\
# Argo CD applies this file.
apiVersion: driftloop.dev/v1alpha1
kind: InferenceService
metadata: {name: desk}
spec:
  model:
    family: support  # the family
  replicas: 2
"""


def test_a_version_is_added_behind_the_family() -> None:
    expected = SERVICE.replace("# the family\n", f"# the family\n    version: {V}\n")
    assert pinned(SERVICE, None, V, "a.yaml") == expected


def test_a_pinned_version_is_replaced_and_comments_stay() -> None:
    before = SERVICE.replace("# the family\n", "# the family\n    version: 'old'  # by CI\n")
    assert pinned(before, "desk", V, "a.yaml") == before.replace("'old'", V)
    assert pinned(pinned(SERVICE, None, V, ""), None, V, "") == pinned(SERVICE, None, V, "")


@pytest.mark.parametrize(
    "model",
    [
        "  model: {family: support}\n",
        "  model: {family: support, version: old}\n",
        "  model:\n    version: old\n    family: support\n",
        "  model:\n      version: old\n      family: support",
    ],
)
def test_other_forms_of_the_model(model: str) -> None:
    head = SERVICE.partition("  model:")[0]
    [found] = yaml.safe_load_all(pinned(head + model, None, V, "a.yaml"))
    assert found["spec"]["model"] == {"family": "support", "version": V}


def test_one_of_several_services_is_named() -> None:
    other = SERVICE.replace("desk", "shop")
    both = f"{SERVICE}---\n{other}---\nkind: Secret\n"
    assert pinned(both, "shop", V, "") == f"{SERVICE}---\n{pinned(other, None, V, '')}---\nkind: Secret\n"
    for name in (None, "none"):
        with pytest.raises(BadInput, match="must have exactly one"):
            pinned(both, name, V, "a.yaml")


@pytest.mark.parametrize("text", ["a: [", SERVICE.replace("  model:\n    family: support  # the family\n", "")])
def test_a_file_that_cannot_be_pinned_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"a\.yaml: "):
        pinned(text, None, V, "a.yaml")


def test_an_alias_is_not_changed_for_everybody() -> None:
    text = "x: &m\n  family: support\n---\n" + SERVICE.replace("  model:\n    family: support  # the family\n", "")
    shared = text.replace("---\n", "") + "  model: *m\n"
    with pytest.raises(BadInput):
        pinned(shared, None, V, "a.yaml")


@given(replicas=st.integers(0, 9), old=st.sampled_from(["", "    version: old\n"]), newline=st.booleans())
def test_only_the_pin_differs(replicas: int, old: str, newline: bool) -> None:
    text = SERVICE.replace("replicas: 2", f"replicas: {replicas}").replace("# the family\n", f"# the family\n{old}")
    text = text if newline else text.rstrip("\n")
    before, after = yaml.safe_load(text), yaml.safe_load(pinned(text, None, V, ""))
    before["spec"]["model"]["version"] = V
    assert after == before


def test_the_file_is_rewritten_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    assert main(["pin", "-f", str(path), "--version", V]) == 0
    assert main(["pin", "-f", str(path), "--version", V]) == 0
    assert capsys.readouterr().out == f"{path}: pins {V}\n{path}: pinned already: {V}\n"
    with pytest.raises(SystemExit) as caught:
        main(["pin", "-f", str(path), "--version", "a: b"])
    assert caught.value.code == 2


@given(
    name=st.from_regex(r"[a-z][-a-z0-9]{0,38}[a-z0-9]", fullmatch=True),
    suffix=st.text("aB1/._", min_size=1, max_size=30),
)
def test_a_name_with_a_suffix_is_a_name(name: str, suffix: str) -> None:
    assert len(suffixed(name, suffix)) <= 40
