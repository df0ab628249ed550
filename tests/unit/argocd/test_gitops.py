"""The example of an ApplicationSet fits the folders beside it."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[3] / "examples/gitops"
SET = yaml.safe_load((FOLDER / "applicationset.yaml").read_text())


def test_each_folder_of_a_service_becomes_an_application() -> None:
    (generator,) = SET["spec"]["generators"]
    (pattern,) = [each["path"] for each in generator["git"]["directories"]]
    assert [path.name for path in FOLDER.glob(pattern)] == ["support"]
    assert generator["git"]["repoURL"] == SET["spec"]["template"]["spec"]["source"]["repoURL"]


def test_the_service_takes_only_what_is_committed_and_its_ignored_fields_exist() -> None:
    service = yaml.safe_load((FOLDER / "services/support/inferenceservice.yaml").read_text())
    assert service["spec"]["approval"] == "git"
    assert service["spec"]["model"]["version"]
    (ignored,) = SET["spec"]["template"]["spec"]["ignoreDifferences"]
    assert "RespectIgnoreDifferences=true" in SET["spec"]["template"]["spec"]["syncPolicy"]["syncOptions"]
    assert f"{ignored['group']}/" in service["apiVersion"]
    assert ignored["kind"] == service["kind"]
    for pointer in ignored["jsonPointers"]:
        value = service
        for part in pointer.strip("/").split("/"):
            value = value[part]
