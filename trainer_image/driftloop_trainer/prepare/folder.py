"""The second part of prepare: tokenises the gathered rows for the model, and writes the folder and the result."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import examples_per_sequence
from driftloop.contract.manifest import Manifest
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import PrepareResult, SuiteItems, counted, encode, fitting
from driftloop.contract.task import PrepareTask
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import publish, write_text
from driftloop_trainer.data.rows import Row
from driftloop_trainer.dataset import FILE, VALIDATION, write_dataset, write_turn_ends
from driftloop_trainer.folders import open_folder, record
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
from driftloop_trainer.prepare.sample import CLOSE, OPEN, sample
from driftloop_trainer.prepare.suites import suite_items, write_suite
from driftloop_trainer.weights import check_weights

log = logging.getLogger(__name__)

TRAIN_KEYS, HELD_OUT_KEYS, VALIDATION_KEYS = "train_keys.txt", "heldout_keys.txt", "validation_keys.txt"
PROVENANCE = ".provenance.json"  # hidden, as it describes the content and is not part of it
SAMPLE = ".sample.txt"  # hidden; the first example, for people to read
_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The rows for training with their examples, and the numbers of dropped and reshaped rows by reason.

    `places`: for each example where users find its row. `unread`: the number of rows per message field that nothing
    reads.
    """

    rows: list[Row]
    examples: list[Example]
    places: list[str]
    dropped: Counter[str]
    reshaped: Counter[str]
    unread: Counter[str]


def leave_folder(task: PrepareTask, gathered: Gathered, scratch: Path) -> PrepareResult:
    """Tokenise the rows for their model, and write the folder to `task.output`.

    Raises StageFailure, StorageError or ManifestError.
    """
    folder = scratch / "prepared"
    folder.mkdir()
    model_folder = _model_folder(task, gathered.train, folder, scratch)
    model_uri = task.model.uri or join(task.output, _MODEL)
    tokenizer, config = load_tokenizer(model_folder, model_uri), load_config(model_folder)
    set_chat_template(tokenizer, task.training)

    _check_packing(task.training, config.model_type)
    renderer = Renderer(tokenizer, task.training, context_length(config))
    rendering = render(gathered.train, renderer)
    validation = render_validation(gathered.validation, renderer)
    rows = rendering.rows
    trained_tokens = sum(example.trained for example in rendering.examples)
    examples = _compared(rendering, task.training, renderer.max_length)
    sequences = arrange(examples, task.training, renderer.max_length)
    _write_sequences(folder, rendering, examples, sequences)
    apart = _compared(validation, task.training, renderer.max_length) if validation.rows else []
    if apart:
        _write_sequences(folder, validation, apart, arrange(apart, task.training, renderer.max_length), VALIDATION)
        _write_keys(folder / VALIDATION_KEYS, validation.rows)
    write_turn_ends(folder, [token for token, _ in renderer.turn_ends.most_common()])
    _write_keys(folder / TRAIN_KEYS, rows)
    _write_keys(folder / HELD_OUT_KEYS, gathered.held_out)
    (folder / PROFILE).write_text(json.dumps(build_profile([row.prompt for row in rows if row.part != "augment"])))
    suites = _write_suites(task, gathered.held_out, folder)

    dropped = gathered.dropped | (rendering.dropped + validation.dropped)
    shown = _shown(rows, renderer, tokenizer)
    manifest = publish(folder, task.output)
    _write_provenance(task, dropped, rows)
    write_text(join(task.output, SAMPLE), shown + "\n")
    result = PrepareResult(
        uri=task.output,
        digest=manifest.digest,
        train_rows=len(rows),
        sequences=len(sequences),
        validation_rows=len(validation.rows),
        held_out_rows=len(gathered.held_out),
        feedback_rows=sum(row.part == "feedback" for row in rows),
        replay_rows=sum(row.part == "replay" for row in rows),
        augmented_rows=sum(row.part == "augment" for row in rows),
        dropped_rows=sum(dropped.values()),
        dropped=counted(dropped),
        reshaped=dict(+rendering.reshaped),
        notes=[*_notes(config, rendering.unread), *balance_note(rows, task.training)],
        tokens=sum(len(example.ids) for example in examples),
        trained_tokens=trained_tokens,
        longest_row_tokens=max(len(example.ids) for example in [*examples, *apart]),
        model_uri=None if task.model.new is None else model_uri,
        model_digest=None if task.model.new is None else Manifest.read(model_folder).digest,
        tokenizer_digest=tokenizer_digest(model_folder, task.training),
        model=model_facts(config, task.training.adapter),
        suites=suites,
    )
    result = fitting(result)
    record(task.output, encode(result))
    others = f"{len(gathered.held_out)} held out, {len(validation.rows)} for validation"
    log.info("%d rows in %d sequences, %s, dropped: %s", len(rows), len(sequences), others, dropped)
    log.info("%d examples, reshaped rows: %s", len(examples), result.reshaped or "none")
    for note in result.notes:
        log.info("%s", note)
    log.info("the first example; tokens that count in the loss are between %s and %s:\n%s", OPEN, CLOSE, shown)
    return result


def render(rows: Iterable[Row], renderer: Renderer) -> Rendering:
    """Render all rows. Raises StageFailure if there are no examples, or a row of a source can't be rendered."""
    result, tokens = _rendered(rows, renderer)
    if not result.rows and tokens:
        raise StageFailure(StageReason.ALL_ROWS_TOO_LONG, _why_too_long(renderer, tokens, result.dropped["masked"]))
    if not result.rows:
        raise StageFailure(StageReason.ALL_ROWS_MASKED, _why_masked(result.dropped))
    return result


def _compared(rendering: Rendering, training: TrainingSpec, max_length: int) -> list[Example]:
    """The examples, for kto each with the mismatched one that it is compared with."""
    if training.method != "kto":
        return rendering.examples
    return with_mismatches(rendering.rows, rendering.examples, max_length)


def render_validation(rows: list[Row], renderer: Renderer) -> Rendering:
    """Render the rows that are set aside. Raises StageFailure if there are rows but no examples."""
    result, _ = _rendered(rows, renderer)
    if rows and not result.rows:
        dropped = ", ".join(f"{reason} {count}" for reason, count in result.dropped.items())
        raise StageFailure(
            StageReason.EMPTY_DATA,
            f"none of the {len(rows)} rows that training.validation sets aside can be used ({dropped}): raise its "
            "percent or maxRows, or remove validation",
        )
    return result


def _rendered(rows: Iterable[Row], renderer: Renderer) -> tuple[Rendering, list[int]]:
    """The rows as examples, and the tokens of those that are too long."""
    result = Rendering([], [], [], Counter(), Counter(), Counter())
    tokens: list[int] = []
    for row in rows:
        try:
            rendered = renderer.render(row)
        except StageFailure as failure:
            if row.part != "feedback":  # users can't remove a conversation from the feedback
                raise
            log.warning("%s: %s", row.where, failure.reason)  # the message may quote the client
            result.dropped["feedback.notRendered"] += 1
            continue
        if rendered.dropped:
            result.dropped[rendered.dropped] += 1
            tokens += [rendered.tokens] if rendered.dropped == "tooLong" else []
        else:
            result.rows.append(row)
            result.examples.extend(rendered.examples)
            result.places.extend([row.where] * len(rendered.examples))
            result.reshaped.update(rendered.reshaped)
            result.reshaped["unreadFields"] += bool(row.unread)
            result.unread.update(row.unread)
    return result, tokens


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


def _model_folder(task: PrepareTask, rows: list[Row], folder: Path, scratch: Path) -> Path:
    """The folder with config and tokenizer: the given one, or a new one made from the training rows."""
    if task.model.new is None:
        if task.model.uri is None:
            raise StageFailure(StageReason.BAD_TASK, "model: set uri or new")
        model = open_folder(task.model.uri, scratch / _MODEL, task.model.digest, weights=False)
        check_model_folder(model, task.model.uri)
        check_weights(load_config(model), task.model.uri)
        return model
    model = folder / _MODEL
    texts = [text for row in rows for text in (row.text, *(turn.content for turn in row.turns)) if text]
    tokenizer = train_tokenizer(texts, task.model.new.tokenizer.vocab_size)
    save_new_model(new_config(task.model.new, tokenizer), tokenizer, task.training.seed, model)
    Manifest.of(model).write(model)
    return model


def _why_too_long(renderer: Renderer, tokens: list[int], masked: int) -> str:
    others = f"; {masked} more have no token that counts in the loss" if masked else ""
    needed = min(max(tokens), renderer.context or max(tokens))
    advice = f"set training.maxLength to {needed}, enough for {sum(size <= needed for size in tokens)} of them"
    if needed < min(tokens):
        advice = (
            f"the model's own context is {renderer.context}: shorten the rows, or use a model with a longer context"
        )
    return (
        f"none of {len(tokens)} rows fits into {renderer.max_length} tokens with its answer, and an answer is never "
        f"cut: they have {min(tokens)} to {max(tokens)} tokens{others}; {advice}"
    )


def _why_masked(dropped: Counter[str]) -> str:
    if equal := dropped["equalAnswers"]:
        return f"all {equal} pairs have the same tokens as chosen and rejected answers: correct data.sources"
    return (
        f"none of {dropped['masked']} rows has a token that counts in the loss: with method sft and lossOn completion "
        "each row needs a completion"
    )


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


def _write_sequences(
    folder: Path, rendering: Rendering, examples: list[Example], sequences: list[list[int]], name: str = FILE
) -> None:
    labels = [example.labels for example in examples]
    each = len(examples) // len(rendering.examples)  # 2 with mismatched examples
    good = [row.label for row in rendering.rows if row.label is not None]
    write_dataset(
        folder,
        [[token for position in sequence for token in examples[position].ids] for sequence in sequences],
        [[label for position in sequence for label in labels[position]] for sequence in sequences],
        [[len(examples[position].ids) for position in sequence] for sequence in sequences],
        [[rendering.places[position // each] for position in sequence] for sequence in sequences],
        good or None,
        name,
    )


def _write_keys(path: Path, rows: Iterable[Row]) -> None:
    """Write the keys of all rows of a kind, so that users can check that the kinds don't overlap."""
    path.write_text("".join(f"{key}\n" for key in sorted({row.key for row in rows})))


def _write_suites(task: PrepareTask, held_out: list[Row], folder: Path) -> list[SuiteItems]:
    return [write_suite(suite_items(held_out, s), s, folder) for s in task.suites if s.items is not None]


def _write_provenance(task: PrepareTask, dropped: dict[str, int], rows: list[Row]) -> None:
    content = {
        "job": task.job,
        "jobUid": task.job_uid,
        "family": task.family,
        "data": task.data.dump(),
        "model": task.model.dump(),
        "trainRows": dict(Counter(row.part for row in rows)),
        "droppedRows": dropped,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(join(task.output, PROVENANCE), json.dumps(content, indent=1) + "\n")
