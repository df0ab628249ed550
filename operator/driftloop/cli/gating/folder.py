"""Writes the folder of `driftloop gate --report`: the report in three forms, and the evidence."""

import json
import shutil
from pathlib import Path

from driftloop.cli.gating.junit import junit
from driftloop.cli.gating.markdown import markdown
from driftloop.cli.gating.report import Report
from driftloop.cli.manifests import BadInput
from driftloop.contract.manifest import MANIFEST

JSON, MARKDOWN, JUNIT = "report.json", "report.md", "junit.xml"
EVIDENCE = "evidence"


def clear(folder: Path) -> None:
    """Create the folder, without an earlier report: nobody shall take it for this one. Raises BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (JSON, MARKDOWN, JUNIT):
            (folder / name).unlink(missing_ok=True)
        if (folder / EVIDENCE / MANIFEST).exists():
            shutil.rmtree(folder / EVIDENCE)
    except OSError as error:
        raise BadInput(f"--report: {folder}: {error.strerror}") from error


def write(folder: Path, report: Report, evidence: Path) -> None:
    """Write the report, and copy the evidence if there is any."""
    (folder / JSON).write_text(json.dumps(report.document(), indent=2) + "\n")
    (folder / MARKDOWN).write_text(markdown(report))
    (folder / JUNIT).write_text(junit(report))
    if evidence.is_dir():
        shutil.copytree(evidence, folder / EVIDENCE, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
