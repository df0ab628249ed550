"""Judges a model on this machine, without a cluster: `driftloop gate`."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from driftloop.cli.exits import Exit
from driftloop.cli.gating import folder
from driftloop.cli.gating.evaluation import ANCHOR, BASELINE, CANDIDATE, EVIDENCE, Models, evaluation_of, judged
from driftloop.cli.gating.order import Against, Order, order_of
from driftloop.cli.gating.processes import NotJudged
from driftloop.cli.gating.report import Judged, Report, Side, Unjudged
from driftloop.cli.gating.table import table
from driftloop.cli.gating.workspace import Workspace
from driftloop.cli.manifests import BadInput
from driftloop.cli.options import add_output, positive
from driftloop.cli.output import Progress, print_result
from driftloop.cli.program import usage

# What the processes of the evaluation import. They are not imported here.
NEEDED = ("driftloop_trainer", "driftloop_server", "torch", "transformers", "aiohttp", "pyarrow", "prometheus_client")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a model and write the report. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))  # ends the processes on its way out
    try:
        against = Against(parsed.baseline, parsed.no_baseline, parsed.look, parsed.anchor, parsed.anchor_look)
        order = order_of(parsed.filename, parsed.model, against, parsed.items)
        _refuse_missing_packages()
        if parsed.report is not None:
            folder.clear(parsed.report)
        with tempfile.TemporaryDirectory(prefix="driftloop-gate-") as name:
            report = _run(order, Workspace(Path(name)), parsed.report)
    except BadInput as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    print_result(parsed.output, table(report), report.document())
    return report.exit


def _run(order: Order, work: Workspace, target: Path | None) -> Report:
    """Judge, and write the report while the evidence is still there."""
    progress = Progress("gate")
    candidate = work.artefact(CANDIDATE, order.model)
    baseline = work.artefact(BASELINE, order.baseline) if order.baseline else None
    outcome: Judged | Unjudged
    try:
        anchor = work.artefact(ANCHOR, order.anchor) if order.anchor else None
        outcome = judged(evaluation_of(order, Models(candidate, baseline, anchor), work, progress.show))
    except NotJudged as error:
        outcome = Unjudged(str(error))
    finally:
        progress.end()
    against = Side(str(order.baseline), baseline.digest) if baseline else None
    report = Report(Side(str(order.model), candidate.digest), against, outcome)
    if target is not None:
        folder.write(target, report, work.path(EVIDENCE))
    return report


def _refuse_missing_packages() -> None:
    """Raise BadInput if the models can't be run here."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise BadInput(
            f"the models run on this machine, and these Python packages are missing: {', '.join(missing)}. Install "
            "them: pip install '.[operator,trainer,server]'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("gate"),
        description="Judges a model by the suites of an evaluation, on this machine and without a cluster. The "
        "processes and the gates are those of a ModelVersion: the baseline is asked first, then the anchor "
        "if there is one, then the model, each in the built-in engine on the loopback interface.",
        epilog="Exit status: 0 every gate passed or does not apply; 1 the model could not be judged, or a gate is "
        "inconclusive; 2 a wrong option or file, or a missing package; 6 a gate failed; 130 or 143 interrupted.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="folder of the model to judge")
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--baseline",
        type=Path,
        metavar="FOLDER",
        help="folder of the model to compare with, such as the version that serves now",
    )
    against.add_argument(
        "--no-baseline",
        action="store_true",
        help="there is nothing to compare with: suites that compare do not apply",
    )
    parser.add_argument(
        "-f",
        "--filename",
        "--suites",
        required=True,
        metavar="FILE",
        help="manifest of a FineTuneJob or a ModelVersion, or only its evaluation section; - reads standard input",
    )
    parser.add_argument(
        "--items",
        type=Path,
        metavar="FOLDER",
        help="folder with the items of suites: NAME.jsonl, .csv or .parquet is used in place of the uri of suite NAME",
    )
    parser.add_argument(
        "--look",
        type=positive,
        default=1,
        metavar="N",
        help="number of this comparison among those with the same baseline on the same items. Each later one must be "
        "more certain, so that all of them together pass a worse model in at most 5 %% (default: %(default)s)",
    )
    parser.add_argument(
        "--anchor",
        type=Path,
        metavar="FOLDER",
        help="folder of the model from which suites with totalDelta count the loss, such as the first one that served; "
        "at the first comparison it is the baseline",
    )
    parser.add_argument(
        "--anchor-look",
        type=positive,
        default=1,
        metavar="N",
        help="number of this comparison among those with the same anchor on the same items (default: %(default)s)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help=f"write {folder.JSON}, {folder.MARKDOWN}, {folder.JUNIT} and the evidence (all answers) into this folder",
    )
    add_output(parser)
    return parser
