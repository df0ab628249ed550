"""What `driftloop gate` shall judge: the models' folders, and the suites with their items. Runs nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.api.base import API_VERSION
from driftloop.api.evaluation import MOST_ANCHORED
from driftloop.api.finetunejob import FineTuneJob
from driftloop.api.modelversion import ModelVersion, VersionEvaluation
from driftloop.api.suite import SuiteSpec
from driftloop.cli.faults import faults_of
from driftloop.cli.manifests import BadInput, documents, read_text, source_name
from driftloop.controller.kinds.engines import obstacle, type_of
from driftloop.controller.kinds.modelversion.anchor import is_anchored
from driftloop.controller.kinds.modelversion.comparison import is_compared
from driftloop.controller.vocabulary.plan import Settings

Json = dict[str, Any]
KINDS: dict[str, type[FineTuneJob] | type[ModelVersion]] = {"FineTuneJob": FineTuneJob, "ModelVersion": ModelVersion}
HERE = Settings("", "")  # no image: the engine here is the built-in one
_SECTION = "spec.evaluation."
_REQUESTS = "requests.jsonl"
_ITEM_FILES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Order:
    """A model, what it is compared with, and the gates that it must pass."""

    evaluation: VersionEvaluation
    model: Path
    baseline: Path | None  # None: there is nothing to compare with
    items: dict[str, Path]  # files on this machine, by suite; the others are at the suites' URIs
    requests: Path | None = None  # file on this machine with the recorded requests; None: they are at their URI
    look: int = 1  # number of this comparison with the baseline on these items
    anchor: Path | None = None  # from which suites with totalDelta count the loss
    anchor_look: int = 1  # number of this comparison with the anchor on these items

    @property
    def compares(self) -> bool:
        """Whether something compares the model with the baseline."""
        return is_compared(self.evaluation)


@dataclass(frozen=True)
class Against:
    """The options that say what the model is compared with."""

    baseline: Path | None
    without_baseline: bool
    look: int = 1
    anchor: Path | None = None
    anchor_look: int = 1


def order_of(filename: str, model: Path, against: Against, items: Path | None) -> Order:
    """The order of these options. Raises BadInput."""
    evaluation, baseline = evaluation_of(filename), against.baseline
    for name, folder in (
        ("--model", model),
        ("--baseline", baseline),
        ("--anchor", against.anchor),
        ("--items", items),
    ):
        if folder is not None and not folder.is_dir():
            raise BadInput(f"{name}: {folder} is not a folder")
    paired = [suite.name for suite in evaluation.suites if _compares(suite)]
    if paired and baseline is None and not against.without_baseline:
        raise BadInput(
            f"suite {paired[0]} compares with another model: set --baseline to its folder, or --no-baseline if there "
            "is none"
        )
    if fault := _anchor_fault(evaluation, against):
        raise BadInput(fault)
    files, requests = dict(_item_files(evaluation.suites, items)), _requests_file(evaluation, items)
    return Order(
        evaluation, model, baseline, files, requests, against.look, against.anchor, anchor_look=against.anchor_look
    )


def _anchor_fault(evaluation: VersionEvaluation, against: Against) -> str | None:
    """What is wrong with --anchor; None if nothing."""
    anchored = [suite.name for suite in evaluation.suites if suite.total_delta is not None]
    if anchored and against.baseline is not None and against.anchor is None:
        return (
            f"suite {anchored[0]} has a totalDelta: set --anchor to the folder of the model from which the loss is "
            "counted (the baseline, if this is the first comparison), or remove totalDelta"
        )
    if against.anchor is None:
        return None
    if not anchored:
        return (
            "--anchor: no suite has a totalDelta, the loss that is accepted against it: set it, or leave --anchor out"
        )
    return None if against.baseline is not None else "--anchor: set --baseline too"


def evaluation_of(filename: str) -> VersionEvaluation:
    """The evaluation in a file: that of the one FineTuneJob or ModelVersion, or the section itself. Raises BadInput."""
    source = source_name(filename)
    found = documents(read_text(filename), source)
    objects = [document for document in found if document.get("kind") in KINDS]
    if len(objects) == 1:
        evaluation = _checked(objects[0], source, "")
    elif len(found) == 1 and "kind" not in found[0]:
        evaluation = _checked(_version_with(found[0]), source, _SECTION)
    else:
        raise BadInput(
            f"{source}: must have exactly one FineTuneJob or ModelVersion, or only an evaluation: suites with its "
            "settings"
        )
    if fault := _fault(evaluation):
        raise BadInput(f"{source}: {fault}")
    return evaluation


def _checked(document: Json, source: str, prefix: str) -> VersionEvaluation:
    if faults := faults_of(document):
        raise BadInput("; ".join(f"{source}: {str(fault).removeprefix(prefix)}" for fault in faults))
    evaluation = KINDS[document["kind"]].model_validate(document).spec.evaluation
    return VersionEvaluation.model_validate(evaluation.dump())


def _version_with(evaluation: Json) -> Json:
    """A ModelVersion that has the evaluation, to be checked like one."""
    artefact = {"uri": "pvc://gate/candidate", "digest": f"sha256:{'0' * 64}"}
    spec = {"family": "gate", "artefact": artefact, "evaluation": evaluation}
    return {"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": "candidate"}, "spec": spec}


def _fault(evaluation: VersionEvaluation) -> str | None:
    """What is wrong by the rules across fields, which the CRDs have as CEL; None if the evaluation can be run here."""
    suites, names = evaluation.suites, [suite.name for suite in evaluation.suites]
    if not suites:
        return "evaluation.suites: is empty, so nothing would judge the model. Add a suite"
    if twice := next((name for name in names if names.count(name) > 1), None):
        return f"evaluation.suites: {twice} occurs twice. Give each suite a name of its own"
    if len(evaluation.reasoning_tags) == 1:
        return "evaluation.reasoningTags: needs a start and an end, or nothing"
    if len(suites) > MOST_ANCHORED and is_anchored(evaluation):
        return f"evaluation.suites: with totalDelta at most {MOST_ANCHORED} suites are possible"
    for suite in suites:
        if fault := _total_fault(suite):
            return f"suite {suite.name}: {fault}"
        if suite.metric.type == "judge" and suite.metric.judge is None:
            return f"suite {suite.name}: metric.type judge needs a judge. Set metric.judge"
        if suite.metric.type == "judge" and not _compares(suite):
            return f"suite {suite.name}: a judge compares two models. Use kind target or retention, or another metric"
    engine = evaluation.engine
    if engine is None:
        return None
    if (chosen := type_of(engine, HERE)) != "transformers":
        return f"evaluation.engine.type: {chosen} runs only as an image. Remove it: the built-in engine runs here"
    return obstacle(engine, HERE)


def _total_fault(suite: SuiteSpec) -> str | None:
    if suite.total_delta is None:
        return None
    if suite.kind != "retention":
        return "totalDelta limits the loss of a retention suite. Remove it, or use kind retention"
    if suite.total_delta == 0 or suite.total_delta < suite.delta:
        return f"totalDelta must be above 0 and at least delta, which is {suite.delta:g}"
    return "a judge compares with one model only. Remove totalDelta" if suite.metric.type == "judge" else None


def _compares(suite: SuiteSpec) -> bool:
    return suite.kind != "floor"


def _requests_file(evaluation: VersionEvaluation, folder: Path | None) -> Path | None:
    """The file of recorded requests in the folder of `--items`. Raises BadInput if they are nowhere."""
    contract = evaluation.contract
    if contract is None:
        return None
    if folder is not None and (folder / _REQUESTS).is_file():
        return (folder / _REQUESTS).resolve()
    if contract.uri.startswith("pvc://"):
        raise BadInput(
            f"--items: the requests of evaluation.contract are in {contract.uri}, which this machine can't read: set "
            f"--items to a folder with {_REQUESTS}"
        )
    return None


def _item_files(suites: Sequence[SuiteSpec], folder: Path | None) -> Iterator[tuple[str, Path]]:
    """The files in the folder of `--items`, by suite. Raises BadInput if a suite's items are nowhere."""
    for suite in suites:
        names = [f"{suite.name}{ending}" for ending in _ITEM_FILES]
        files = [folder / name for name in names if (folder / name).is_file()] if folder else []
        if len(files) > 1:
            raise BadInput(f"--items: suite {suite.name} has {' and '.join(path.name for path in files)}: keep one")
        if files:
            yield suite.name, files[0].resolve()
        elif suite.uri is None or suite.uri.startswith("pvc://"):
            raise BadInput(
                f"--items: the items of suite {suite.name} are in {suite.uri or 'the data of its job'}, which this "
                f"machine can't read: set --items to a folder with {names[0]}"
            )
