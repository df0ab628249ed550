"""The second part of prepare: tokenises the gathered rows for the model, and writes the folder and the result."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import examples_per_sequence
from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import MODEL_MANIFEST, PrepareResult, SuiteItems, counted, encode, fitting
from driftloop.contract.task import PrepareTask
from driftloop.contract.textstats import PROFILE
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.novelty import profile_of
from driftloop.podlib.storage import exists, manifest_of, pinned, publish, write_text
from driftloop_trainer.data.rows import Row
from driftloop_trainer.dataset import FILE, VALIDATION, write_dataset, write_turn_ends
from driftloop_trainer.folders import WEIGHTS, open_folder, record
from driftloop_trainer.modelfiles import tokenizer_digest
from driftloop_trainer.models import (
    PACKING_TYPES,
    check_model_folder,
    context_length,
    is_recurrent,
    load_config,
    load_tokenizer,
    model_facts,
    set_chat_template,
)
from driftloop_trainer.prepare.gather import Gathered
from driftloop_trainer.prepare.mismatch import with_mismatches
from driftloop_trainer.prepare.newmodel import new_config, save_new_model, train_tokenizer
from driftloop_trainer.prepare.packing import pack
from driftloop_trainer.prepare.render import Example, Renderer
from driftloop_trainer.prepare.rendering import Rendering, render, render_validation
from driftloop_trainer.prepare.sample import CLOSE, OPEN, sample
from driftloop_trainer.prepare.suites import suite_items, write_suite
from driftloop_trainer.weights import check_weights

log = logging.getLogger(__name__)

TRAIN_KEYS, HELD_OUT_KEYS, VALIDATION_KEYS = "train_keys.txt", "heldout_keys.txt", "validation_keys.txt"
PROVENANCE = ".provenance.json"  # hidden, as it describes the content and is not part of it
SAMPLE = ".sample.txt"  # hidden; the first example, for people to read
_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file of the folder, as the examples and the sequences that training reads."""

    rendering: Rendering
    examples: list[Example]  # for kto each with the mismatched one that it is compared with
    sequences: list[list[int]]  # positions of the examples


@dataclass(frozen=True, slots=True)
class _Model:
    """Config and tokenizer of the model that is trained. `manifest`: of its folder; None for one of the Hub."""

    folder: Path
    manifest: Manifest | None
    uri: str
    tokenizer: Any
    config: Any


def leave_folder(task: PrepareTask, gathered: Gathered, scratch: Path) -> PrepareResult:
    """Tokenise the rows for their model, and write the folder to `task.output`.

    Raises StageFailure, StorageError or ManifestError.
    """
    folder = scratch / "prepared"
    folder.mkdir()
    model = _opened(task, gathered.train, folder, scratch)
    _check_packing(task.training, model.config.model_type)
    renderer = Renderer(model.tokenizer, task.training, context_length(model.config))
    train = _part(render(gathered.train, renderer), task.training, renderer)
    validation = _part(render_validation(gathered.validation, renderer), task.training, renderer)
    suites = _write_files(folder, task, gathered, train, validation, renderer)

    dropped = gathered.dropped | (train.rendering.dropped + validation.rendering.dropped)
    shown = _shown(train.rendering.rows, renderer, model.tokenizer)
    manifest = publish(folder, task.output)
    if model.manifest is not None and not _is_listed(model):
        write_text(join(task.output, MODEL_MANIFEST), model.manifest.document)
    _write_provenance(task, model, dropped, train.rendering.rows)
    write_text(join(task.output, SAMPLE), shown + "\n")
    result = fitting(
        PrepareResult(
            uri=task.output,
            digest=manifest.digest,
            held_out_rows=len(gathered.held_out),
            dropped_rows=sum(dropped.values()),
            dropped=counted(dropped),
            suites=suites,
            **_facts_of_model(task, model),
            **_facts_of_rows(train, validation),
            notes=[
                *_notes(model.config, train.rendering.unread),
                *balance_note(train.rendering.rows, task.training),
            ],
        )
    )
    record(task.output, encode(result))
    _log(result, dropped, shown)
    return result


def _opened(task: PrepareTask, rows: list[Row], folder: Path, scratch: Path) -> _Model:
    """The model with the chat template of the job. From here on it is that of one commit, also if its branch moves."""
    uri = pinned(task.model.uri) if task.model.uri else join(task.output, _MODEL)
    model_folder, manifest = _model_folder(task, uri, rows, folder, scratch)
    tokenizer, config = load_tokenizer(model_folder, uri), load_config(model_folder)
    set_chat_template(tokenizer, task.training)
    return _Model(model_folder, manifest, uri, tokenizer, config)


def _part(rendering: Rendering, training: TrainingSpec, renderer: Renderer) -> Part:
    examples = rendering.examples
    if training.method == "kto" and rendering.rows:
        examples = with_mismatches(rendering.rows, examples, renderer.max_length)
    return Part(rendering, examples, arrange(examples, training, renderer.max_length))


def _write_files(
    folder: Path, task: PrepareTask, gathered: Gathered, train: Part, validation: Part, renderer: Renderer
) -> list[SuiteItems]:
    """Write everything that the digest covers. Returns the suites with their items."""
    _write_sequences(folder, train, FILE)
    _write_keys(folder / TRAIN_KEYS, train.rendering.rows)
    if validation.examples:
        _write_sequences(folder, validation, VALIDATION)
        _write_keys(folder / VALIDATION_KEYS, validation.rendering.rows)
    _write_keys(folder / HELD_OUT_KEYS, gathered.held_out)
    write_turn_ends(folder, [token for token, _ in renderer.turn_ends.most_common()])
    prompts = [row.prompt for row in train.rendering.rows if row.part != "augment"]
    (folder / PROFILE).write_text(json.dumps(profile_of(prompts)))
    return [write_suite(suite_items(gathered.held_out, s), s, folder) for s in task.suites if s.items is not None]


def _facts_of_rows(train: Part, validation: Part) -> dict[str, Any]:
    """The fields of the result that count rows and tokens."""
    rows, lengths = train.rendering.rows, [len(example.ids) for example in train.examples]
    parts = Counter(row.part for row in rows)
    return {
        "train_rows": len(rows),
        "sequences": len(train.sequences),
        "validation_rows": len(validation.rendering.rows),
        "feedback_rows": parts["feedback"],
        "replay_rows": parts["replay"],
        "augmented_rows": parts["augment"],
        "reshaped": dict(+train.rendering.reshaped),
        "tokens": sum(lengths),
        "trained_tokens": sum(example.trained for example in train.rendering.examples),
        "longest_row_tokens": max([*lengths, *(len(example.ids) for example in validation.examples)]),
    }


def _facts_of_model(task: PrepareTask, model: _Model) -> dict[str, Any]:
    """The fields of the result about the model. Its place and digest are told only if the task does not have them."""
    digest = model.manifest.digest if model.manifest is not None else None
    return {
        "model_uri": model.uri if model.uri != task.model.uri else None,
        "model_digest": digest if digest != task.model.digest else None,
        "model_unlisted": digest is not None and not _is_listed(model),
        "tokenizer_digest": tokenizer_digest(model.folder, task.training),
        "model": model_facts(model.config, task.training.adapter, merged=task.merge_adapter),
    }


def _log(result: PrepareResult, dropped: Mapping[str, int], shown: str) -> None:
    others = f"{result.held_out_rows} held out, {result.validation_rows} for validation"
    log.info("%d rows in %d sequences, %s, dropped: %s", result.train_rows, result.sequences, others, dropped)
    log.info("reshaped rows: %s", result.reshaped or "none")
    for note in result.notes:
        log.info("%s", note)
    log.info("the first example; tokens that count in the loss are between %s and %s:\n%s", OPEN, CLOSE, shown)


def _shown(rows: list[Row], renderer: Renderer, tokenizer: Any) -> str:
    """The first example that is not feedback: the words of a service's clients must not be in a log."""
    for row in rows:
        if row.part != "feedback":
            counting = [example for example in renderer.render(row).examples if example.trained]
            if counting and row.rejected is not None:
                chosen, rejected = (sample(example, tokenizer) for example in counting)
                return f"chosen:\n{chosen}\nrejected:\n{rejected}"
            if counting:
                label = "" if row.label is None else "good:\n" if row.label else "bad:\n"
                return label + sample(counting[0], tokenizer)
    return "(all rows are feedback, which is not shown)"


def arrange(examples: list[Example], training: TrainingSpec, max_length: int) -> list[list[int]]:
    """The positions of the examples in each sequence: without packing one, or the two of a pair or for kto."""
    if training.packing:
        return pack([len(example.ids) for example in examples], max_length)
    width = examples_per_sequence(training)
    return [list(range(start, start + width)) for start in range(0, len(examples), width)]


def _is_listed(model: _Model) -> bool:
    """Whether the model's folder has a manifest itself."""
    return (model.folder / MANIFEST).exists()


def _model_folder(
    task: PrepareTask, uri: str, rows: list[Row], folder: Path, scratch: Path
) -> tuple[Path, Manifest | None]:
    """The folder with config and tokenizer, and its manifest: the one at `uri`, or a new one made from the rows."""
    if task.model.new is None:
        if task.model.uri is None:
            raise StageFailure(StageReason.BAD_TASK, "model: set uri or new")
        digest = task.model.digest if exists(join(uri, MANIFEST)) else None
        model = open_folder(uri, scratch / _MODEL, digest, weights=False)
        check_model_folder(model, uri, task.model.bases)
        check_weights(load_config(model), uri, task.model.bases)
        return model, _content(task, uri, model)
    model = folder / _MODEL
    texts = [text for row in rows for text in (row.text, *(turn.content for turn in row.turns)) if text]
    tokenizer = train_tokenizer(texts, task.model.new.tokenizer.vocab_size)
    save_new_model(new_config(task.model.new, tokenizer), tokenizer, task.training.seed, model)
    manifest = Manifest.of(model)
    manifest.write(model)
    return model, manifest


def _content(task: PrepareTask, uri: str, model: Path) -> Manifest | None:
    """The manifest of all files at `uri`; None for a repository of the Hub. `model` has its small files.

    Raises ManifestError if they do not have the task's digest, and StorageError.
    """
    if (model / MANIFEST).exists():
        return Manifest.read(model)
    if uri.startswith("hf://"):
        if task.model.digest is not None:
            raise ManifestError(f"{uri} has no digest: remove it, and write the commit, hf://ORG/MODEL@COMMIT")
        return None
    log.info("reading all of %s for its digest", uri)
    manifest = manifest_of(uri)
    manifest.check(task.model.digest)
    manifest.verify(model, skip=WEIGHTS)
    return manifest


def _check_packing(training: TrainingSpec, model_type: str) -> None:
    if training.packing and model_type not in PACKING_TYPES:
        raise StageFailure(
            StageReason.PACKING_UNSUPPORTED,
            f"training.packing: not tested with models of type {model_type!r}, where packed rows may see each other: "
            f"set it to false, or use one of {', '.join(sorted(PACKING_TYPES))}",
        )


def _notes(config: Any, unread: Counter[str]) -> list[str]:
    """What a user should know before the training starts."""
    notes = {
        f"The config of {config.model_type} has no max_position_embeddings: a service of this model needs "
        "engine.maxModelLen.": context_length(config) is None,
        f"{config.model_type} has recurrent layers: a service of this model needs engine.type vllm.": is_recurrent(
            config
        ),
    }
    return [*(note for note, holds in notes.items() if holds), *_unread_note(unread)]


def balance_note(rows: list[Row], training: TrainingSpec) -> list[str]:
    """A note if the good answers of kto count much more or less than the bad ones.

    The weight of all good over that of all bad answers should be between 1 and 4/3 (Ethayarajh et al. 2024, section 4).
    """
    good, bad = (sum(row.label is label for row in rows) for label in (True, False))
    counts = f"{good} good and {bad} bad answers"
    if training.method != "kto":
        return []
    if not good or not bad:
        return [f"{counts}: kto needs both to learn what makes the difference."]
    if 1 <= training.desirable_weight * good / (training.undesirable_weight * bad) <= 4 / 3:
        return []
    field, weight = ("desirableWeight", bad / good) if good < bad else ("undesirableWeight", good / bad)
    return [
        f"{counts}, which should count alike: set training.{field} to about {weight:.2g}, and the other weight to 1."
    ]


def _unread_note(unread: Counter[str]) -> list[str]:
    if not unread:
        return []
    fields = ", ".join(f"{_encodable(field)[:30]} ({rows} rows)" for field, rows in unread.most_common(3))
    return [f"Fields of messages that nothing reads: {fields}{', …' if len(unread) > 3 else ''}."]


def _encodable(name: str) -> str:
    """The name in a form that UTF-8 can encode: it may have half of a surrogate pair."""
    return name.encode(errors="backslashreplace").decode()


def _write_sequences(folder: Path, part: Part, name: str) -> None:
    examples, sequences, rendering = part.examples, part.sequences, part.rendering
    per_row = len(examples) // len(rendering.examples)  # 2 with mismatched examples
    good = [row.label for row in rendering.rows if row.label is not None]
    write_dataset(
        folder,
        ([token for position in sequence for token in examples[position].ids] for sequence in sequences),
        ([label for position in sequence for label in examples[position].labels] for sequence in sequences),
        ([len(examples[position].ids) for position in sequence] for sequence in sequences),
        ([rendering.places[position // per_row] for position in sequence] for sequence in sequences),
        good or None,
        name,
    )


def _write_keys(path: Path, rows: Iterable[Row]) -> None:
    """Write the keys of all rows of a kind, so that users can check that the kinds don't overlap."""
    path.write_text("".join(f"{key}\n" for key in sorted({row.key for row in rows})))


def _write_provenance(task: PrepareTask, model: _Model, dropped: dict[str, int], rows: list[Row]) -> None:
    digest = {"digest": model.manifest.digest} if model.manifest is not None else {}
    content = {
        "job": task.job,
        "jobUid": task.job_uid,
        "family": task.family,
        "data": task.data.dump(),
        "model": task.model.dump() | {"uri": model.uri} | digest,
        "trainRows": dict(Counter(row.part for row in rows)),
        "droppedRows": dropped,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(join(task.output, PROVENANCE), json.dumps(content, indent=1) + "\n")
