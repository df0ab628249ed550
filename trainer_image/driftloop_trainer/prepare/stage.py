"""The stage from end to end: every read and write happens here or in what this calls, every rule elsewhere."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import DataSource
from driftloop.contract.manifest import Manifest
from driftloop.contract.result import PrepareResult, SuiteItems, encode
from driftloop.contract.storage import join, publish, write_text
from driftloop.contract.task import PrepareTask
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop_trainer.dataset import write_dataset
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.folders import finished, open_folder, record
from driftloop_trainer.models import check_model_folder, load_config, load_tokenizer, model_facts, tokenizer_digest
from driftloop_trainer.prepare.divide import FENCE_THRESHOLD, Divided, divide, replayed
from driftloop_trainer.prepare.feedback import read_feedback
from driftloop_trainer.prepare.newmodel import new_config, save_new_model, train_tokenizer
from driftloop_trainer.prepare.packing import pack
from driftloop_trainer.prepare.render import Example, Renderer
from driftloop_trainer.prepare.rows import Part, Row
from driftloop_trainer.prepare.sources import read_source
from driftloop_trainer.prepare.steps import clean, feedback_wins
from driftloop_trainer.prepare.suites import suite_items, write_suite

TRAIN_KEYS, HELD_OUT_KEYS = "train_keys.txt", "heldout_keys.txt"
PROVENANCE = ".provenance.json"  # hidden: it tells of the content and is not part of it
_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rows of a job on either side, and what became of the rest."""

    train: list[Row]
    held_out: list[Row]
    dropped: dict[str, int]


def prepare(task: PrepareTask) -> PrepareResult:
    """Leave the prepared folder at `task.output` and tell what is in it. Raises StageFailure and its kin."""
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        scratch = Path(name)
        earlier = finished(task.output, scratch / "earlier")
        if isinstance(earlier, PrepareResult):
            _say(f"{task.output} is already whole: nothing to do")
            return earlier
        return _prepare(task, scratch)


def _prepare(task: PrepareTask, scratch: Path) -> PrepareResult:
    folder = scratch / "prepared"
    folder.mkdir()
    gathered = gather(task, scratch, datetime.now(UTC))
    model_folder = _model_folder(task, gathered.train, folder, scratch)
    model_uri = task.model.uri or join(task.output, _MODEL)
    tokenizer, config = load_tokenizer(model_folder, model_uri), load_config(model_folder)

    renderer = Renderer(tokenizer, task.training.method, task.training.loss_on, _length(task, config))
    rows, examples = render(gathered.train, renderer)
    sequences = arrange(examples, task.training.packing, _length(task, config))
    _write_sequences(folder, examples, sequences)
    _write_keys(folder, rows, gathered.held_out)
    (folder / PROFILE).write_text(json.dumps(build_profile([row.prompt for row in rows])))
    suites = _write_suites(task, gathered.held_out, folder)

    dropped = gathered.dropped | {"masked": len(gathered.train) - len(rows)}
    manifest = publish(folder, task.output)
    _write_provenance(task, dropped)
    result = PrepareResult(
        uri=task.output,
        digest=manifest.digest,
        train_rows=len(rows),
        sequences=len(sequences),
        held_out_rows=len(gathered.held_out),
        feedback_rows=sum(row.part == "feedback" for row in rows),
        replay_rows=sum(row.part == "replay" for row in rows),
        dropped_rows=sum(dropped.values()),
        tokens=sum(len(example.ids) for example in examples),
        trained_tokens=sum(example.trained for example in examples),
        longest_row_tokens=max(len(example.ids) for example in examples),
        model_uri=None if task.model.new is None else model_uri,
        model_digest=None if task.model.new is None else Manifest.read(model_folder).digest,
        tokenizer_digest=tokenizer_digest(model_folder),
        model=model_facts(config, task.training.adapter),
        suites=suites,
    )
    record(task.output, encode(result))
    _say(f"{len(rows)} rows in {len(sequences)} sequences, {len(gathered.held_out)} held out, dropped: {dropped}")
    return result


def gather(task: PrepareTask, scratch: Path, now: datetime) -> Gathered:
    """Read, clean and divide all parts of the data. Raises StageFailure when no row is left to train on."""
    data = task.data
    feedback = read_feedback(task.feedback, now) if task.feedback else None
    rows = [
        *(feedback.rows if feedback else []),
        *_read(data.sources, "data", scratch),
        *_read(data.replay.sources if data.replay else [], "replay", scratch),
    ]
    read = len(rows)
    _say(f"{read} rows read")
    rows, contradicted = feedback_wins(rows)
    rows, dropped = clean(rows, data.steps)
    near = [step.threshold for step in data.steps if step.type == "dedupNear"]
    divided = divide(rows, task.family, data.held_out_percent, min(near, default=FENCE_THRESHOLD))
    train = [row for row in divided.train if replayed(row, data.replay.fraction if data.replay else 1.0)]
    if not train:
        raise StageFailure("EmptyData", _why_empty(read, dropped, divided))
    dropped |= {"contradicted": contradicted, "nearHeldOut": divided.fenced}
    dropped |= {f"feedback.{reason}": count for reason, count in (feedback.skipped if feedback else {}).items()}
    return Gathered(train, divided.held_out, {step: count for step, count in dropped.items() if count})


def render(rows: Iterable[Row], renderer: Renderer) -> tuple[list[Row], list[Example]]:
    """Examples of the rows that have something to learn, and those rows. Raises StageFailure if none has."""
    pairs = [(row, renderer.example(row)) for row in rows]
    useful = [(row, example) for row, example in pairs if example.trained]
    if not useful:
        raise StageFailure(
            "AllRowsMasked",
            f"none of {len(pairs)} rows has a token that counts in the loss: with method sft and lossOn completion "
            "each row needs a completion, and a maxLength that leaves room for it after the prompt",
        )
    return [row for row, _ in useful], [example for _, example in useful]


def arrange(examples: list[Example], packing: bool, max_length: int) -> list[list[int]]:
    """Positions of the rows in each sequence: one each, or packed."""
    if not packing:
        return [[position] for position in range(len(examples))]
    return pack([len(example.ids) for example in examples], max_length)


def _read(sources: list[DataSource], part: Part, scratch: Path) -> list[Row]:
    return [row for source in sources for row in read_source(source, part, scratch)]


def _why_empty(read: int, dropped: dict[str, int], divided: Divided) -> str:
    steps = ", ".join(f"{step} dropped {count}" for step, count in dropped.items() if count)
    return (
        f"no row is left to train on: {read} rows read, {steps or 'no step dropped any'}, "
        f"{len(divided.held_out)} held out, {divided.fenced} too like those; check data.sources, data.steps "
        "and the replay fraction"
    )


def _model_folder(task: PrepareTask, rows: list[Row], folder: Path, scratch: Path) -> Path:
    """The folder with config and tokenizer: the one given, or one made from the training rows."""
    if task.model.new is None:
        if task.model.uri is None:
            raise StageFailure("BadTask", "model: set uri or new")
        model = open_folder(task.model.uri, scratch / _MODEL, task.model.digest)
        check_model_folder(model, task.model.uri)
        return model
    model = folder / _MODEL
    texts = [text for row in rows for text in (row.prompt, row.completion) if text]
    tokenizer = train_tokenizer(texts, task.model.new.tokenizer.vocab_size)
    save_new_model(new_config(task.model.new, tokenizer), tokenizer, task.training.seed, model)
    Manifest.of(model).write(model)
    return model


def _length(task: PrepareTask, config: Any) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(task.training.max_length, positions or task.training.max_length)


def _write_sequences(folder: Path, examples: list[Example], sequences: list[list[int]]) -> None:
    labels = [example.labels for example in examples]
    write_dataset(
        folder,
        [[token for position in sequence for token in examples[position].ids] for sequence in sequences],
        [[label for position in sequence for label in labels[position]] for sequence in sequences],
        [[len(examples[position].ids) for position in sequence] for sequence in sequences],
    )


def _write_keys(folder: Path, train: list[Row], held_out: list[Row]) -> None:
    """Keys of every row that is trained on and of every row that never is, so that anyone can look for overlap."""
    for name, rows in ((TRAIN_KEYS, train), (HELD_OUT_KEYS, held_out)):
        (folder / name).write_text("".join(f"{key}\n" for key in sorted({row.key for row in rows})))


def _write_suites(task: PrepareTask, held_out: list[Row], folder: Path) -> list[SuiteItems]:
    return [write_suite(suite_items(held_out, s), s, folder, task.output) for s in task.suites if s.items is not None]


def _write_provenance(task: PrepareTask, dropped: dict[str, int]) -> None:
    content = {
        "job": task.job,
        "jobUid": task.job_uid,
        "family": task.family,
        "data": task.data.dump(),
        "model": task.model.dump(),
        "droppedRows": dropped,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(join(task.output, PROVENANCE), json.dumps(content, indent=1) + "\n")


def _say(text: str) -> None:
    print(f"prepare: {text}", flush=True)
