"""The model's part of the stage: the gathered rows as its tokens, and all that is told of both."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftloop.contract.manifest import Manifest
from driftloop.contract.result import PrepareResult, SuiteItems, counted, encode, fitting
from driftloop.contract.storage import join, publish, write_text
from driftloop.contract.task import PrepareTask
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop_trainer.dataset import write_dataset
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.folders import open_folder, record
from driftloop_trainer.modelfiles import tokenizer_digest
from driftloop_trainer.models import check_model_folder, load_config, load_tokenizer, model_facts
from driftloop_trainer.prepare.gather import Gathered
from driftloop_trainer.prepare.newmodel import new_config, save_new_model, train_tokenizer
from driftloop_trainer.prepare.packing import pack
from driftloop_trainer.prepare.render import Example, Renderer
from driftloop_trainer.prepare.rows import Row
from driftloop_trainer.prepare.suites import suite_items, write_suite

TRAIN_KEYS, HELD_OUT_KEYS = "train_keys.txt", "heldout_keys.txt"
PROVENANCE = ".provenance.json"  # hidden: it tells of the content and is not part of it
_MODEL = "model"


def leave_folder(task: PrepareTask, gathered: Gathered, scratch: Path) -> PrepareResult:
    """Tokenise the rows for their model, and leave the folder at `task.output`. Raises StageFailure and its kin."""
    folder = scratch / "prepared"
    folder.mkdir()
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
        dropped=counted(dropped),
        tokens=sum(len(example.ids) for example in examples),
        trained_tokens=sum(example.trained for example in examples),
        longest_row_tokens=max(len(example.ids) for example in examples),
        model_uri=None if task.model.new is None else model_uri,
        model_digest=None if task.model.new is None else Manifest.read(model_folder).digest,
        tokenizer_digest=tokenizer_digest(model_folder),
        model=model_facts(config, task.training.adapter),
        suites=suites,
    )
    result = fitting(result)
    record(task.output, encode(result))
    _say(f"{len(rows)} rows in {len(sequences)} sequences, {len(gathered.held_out)} held out, dropped: {dropped}")
    return result


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
    return [write_suite(suite_items(held_out, s), s, folder) for s in task.suites if s.items is not None]


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
