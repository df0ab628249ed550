import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from driftloop.api.suite import SuiteSpec
from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.result import MODEL_MANIFEST, encode
from driftloop.contract.task import PrepareTask
from driftloop.contract.text import row_key, side
from driftloop.contract.textstats import PROFILE
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE, VALIDATION, Dataset
from driftloop_trainer.prepare.folder import HELD_OUT_KEYS, PROVENANCE, TRAIN_KEYS, VALIDATION_KEYS
from driftloop_trainer.prepare.setaside import place
from driftloop_trainer.prepare.stage import prepare
from unit.trainer.conftest import ARCHITECTURE

ITEMS = ["card", "refund", "transfer", "statement", "pin"]
ROWS = [(f"question {n * 7919} about my {item} number {n**3}", f"about_{item}") for n in range(40) for item in ITEMS]


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("text", "category"), *rows])


def task(name: str, **fields: Any) -> PrepareTask:
    source = {"name": "rows", "uri": "pvc://claim/rows.csv", "columns": {"prompt": "text", "completion": "category"}}
    document = {
        "job": "job",
        "jobUid": name,
        "family": "family",
        "model": {"new": {"architecture": ARCHITECTURE, "tokenizer": {"vocabSize": 400}}},
        "data": {"sources": [source], "steps": [{"type": "normalise"}, {"type": "dedupExact"}]},
        "training": {"method": "pretrain", "maxLength": 64},
        "suites": [SuiteSpec(name="target", kind="target", items="data").dump()],
        "storage": "pvc://claim/store",
        "output": f"pvc://claim/store/prepared/{name}",
    }
    return PrepareTask.model_validate(document | fields)


@pytest.fixture
def rows(volume: Path) -> Path:
    write_csv(volume / "rows.csv", ROWS)
    return volume


def test_a_new_model_and_its_data_are_whole_disjoint_and_told(rows: Path) -> None:
    result = prepare(task("one"))
    folder = rows / "store" / "prepared" / "one"
    Manifest.read(folder).verify(folder, result.digest)
    Manifest.read(folder / "model").verify(folder / "model", result.model_digest)
    assert len(encode(result)) < 4096

    train, held_out = ((folder / name).read_text().split() for name in (TRAIN_KEYS, HELD_OUT_KEYS))
    assert not set(train) & set(held_out)
    assert len(train) == result.train_rows
    assert len(held_out) == result.held_out_rows == result.suites[0].items > 5
    items = [json.loads(line) for line in (folder / "heldout" / "target.jsonl").read_text().splitlines()]
    assert {item["id"] for item in items} == set(held_out)
    assert (folder / "drift_profile.json").exists()

    data = Dataset(folder / FILE)
    assert len(data) == result.sequences == result.train_rows
    assert data.lengths.sum() == result.tokens
    assert data.trained.sum() == result.trained_tokens
    assert data.lengths.max() == result.longest_row_tokens
    assert all(re.fullmatch(r"source rows, line \d+", place) for place in data.rows(range(len(data))))


def test_a_stage_run_again_tells_the_same_and_changes_nothing(rows: Path) -> None:
    first = prepare(task("one"))
    (rows / "rows.csv").unlink()
    assert prepare(task("one")) == first


def test_a_finished_folder_that_was_tampered_with_is_refused(rows: Path) -> None:
    prepare(task("one"))
    (rows / "store" / "prepared" / "one" / TRAIN_KEYS).write_text("")
    with pytest.raises(ManifestError, match=TRAIN_KEYS):
        prepare(task("one"))


def test_the_same_job_gives_the_same_digest(rows: Path) -> None:
    assert prepare(task("one")).digest == prepare(task("other")).digest


def test_the_next_job_trains_on_no_held_out_row_and_replays_by_part(rows: Path) -> None:
    base = prepare(task("base"))
    write_csv(rows / "new.csv", [(f"something new {n * 7919} of kind {n**3}", "new") for n in range(120)])
    old = {"name": "old", "uri": "pvc://claim/rows.csv", "columns": {"prompt": "text", "completion": "category"}}
    data = {
        "sources": [old | {"name": "new", "uri": "pvc://claim/new.csv"}],
        "replay": {"sources": [old], "fraction": 0.5},
        "steps": [{"type": "normalise"}, {"type": "dedupExact"}],
    }
    suites = [
        {"name": "target", "kind": "target", "items": "data"},
        {"name": "retention", "kind": "retention", "items": "replay", "delta": 0.3},
    ]
    model = {"uri": base.model_uri, "digest": base.model_digest}
    result = prepare(task("next", model=model, data=data, suites=suites, training={"method": "sft", "maxLength": 64}))
    folders = [rows / "store" / "prepared" / name for name in ("base", "next")]
    held_out = set((folders[0] / HELD_OUT_KEYS).read_text().split())
    assert not held_out & set((folders[1] / TRAIN_KEYS).read_text().split())
    assert 0.3 * base.train_rows < result.replay_rows < 0.7 * base.train_rows
    assert [suite.items for suite in result.suites][1] == base.held_out_rows
    assert result.model_uri is None


def test_rows_are_held_out_by_the_inherited_salt_and_share(rows: Path) -> None:
    data = task("x").data.model_copy(update={"held_out_percent": 30}).dump()
    prepare(task("salted", heldOutSalt="older", data=data))
    held_out = (rows / "store" / "prepared" / "salted" / HELD_OUT_KEYS).read_text().split()
    assert set(held_out) == {row_key(text) for text, _ in ROWS if side("older", text, 30) == "heldOut"}


def test_augmented_rows_are_counted_and_are_no_traffic(rows: Path) -> None:
    (rows / "templates.txt").write_text("Hello! {prompt}\n")
    plain = prepare(task("plain"))
    data = task("x").data.dump()
    step = {"type": "augment", "fraction": 0.5, "templates": "pvc://claim/templates.txt"}
    result = prepare(task("more", data=data | {"steps": [*data["steps"], step]}))
    assert result.train_rows == plain.train_rows + result.augmented_rows
    assert 0.3 * plain.train_rows < result.augmented_rows < 0.6 * plain.train_rows
    assert result.held_out_rows == plain.held_out_rows
    folders = [rows / "store" / "prepared" / name for name in ("plain", "more")]
    assert (folders[0] / HELD_OUT_KEYS).read_text() == (folders[1] / HELD_OUT_KEYS).read_text()
    assert (folders[0] / PROFILE).read_text() == (folders[1] / PROFILE).read_text()
    provenance = json.loads((folders[1] / PROVENANCE).read_text())
    assert provenance["trainRows"] == {"data": plain.train_rows, "augment": result.augmented_rows}
    places = Dataset(folders[1] / FILE).rows(range(result.train_rows))
    assert sum("source rows, changed copy of line" in place for place in places) == result.augmented_rows


SET_ASIDE = {"method": "pretrain", "maxLength": 64, "validation": {"percent": 20}}


def keys(folder: Path, name: str) -> set[str]:
    return set((folder / name).read_text().split())


def test_rows_for_validation_are_not_trained_on_and_never_asked_and_the_same_next_time(rows: Path) -> None:
    plain, result = prepare(task("plain")), prepare(task("one", training=SET_ASIDE))
    folders = [rows / "store" / "prepared" / name for name in ("plain", "one")]
    aside = keys(folders[1], VALIDATION_KEYS)
    assert 0.1 * plain.train_rows < result.validation_rows == len(aside) < 0.3 * plain.train_rows
    assert not aside & (keys(folders[1], TRAIN_KEYS) | keys(folders[1], HELD_OUT_KEYS))
    assert aside | keys(folders[1], TRAIN_KEYS) == keys(folders[0], TRAIN_KEYS)
    assert keys(folders[1], HELD_OUT_KEYS) == keys(folders[0], HELD_OUT_KEYS)
    assert len(Dataset(folders[1] / VALIDATION)) == result.validation_rows
    assert len(Dataset(folders[1] / FILE)) == result.sequences == result.train_rows
    write_csv(rows / "rows.csv", [*ROWS[::-1], *((f"later {n * 7919} of kind {n**3}", "new") for n in range(60))])
    prepare(task("later", training=SET_ASIDE | {"seed": 9}))
    later = rows / "store" / "prepared" / "later"
    assert aside <= keys(later, VALIDATION_KEYS)
    assert not aside & keys(later, TRAIN_KEYS)


def test_a_job_without_validation_prepares_what_it_always_did(rows: Path) -> None:
    prepare(task("plain"))
    assert not (rows / "store" / "prepared" / "plain" / VALIDATION).exists()
    assert not (rows / "store" / "prepared" / "plain" / VALIDATION_KEYS).exists()


def test_rows_for_validation_are_packed_as_those_for_training_are(rows: Path) -> None:
    result = prepare(task("packed", training=SET_ASIDE | {"packing": True}))
    data = Dataset(rows / "store" / "prepared" / "packed" / VALIDATION)
    assert data.packed
    assert len(data) < result.validation_rows == sum(len(data.rows([n])) for n in range(len(data)))


def test_rows_for_validation_that_do_not_fit_are_counted_and_if_none_fits_it_is_said(rows: Path) -> None:
    base = prepare(task("base"))
    longs = [f"{n} {'word ' * 60}".strip() for n in range(500)]
    first = min(longs, key=lambda text: place("family", row_key(text)))  # it is set aside before all others
    write_csv(rows / "rows.csv", [(first, "a"), *((f"short {n}", "a") for n in range(40))])
    training = {"method": "sft", "maxLength": 64, "validation": {"percent": 50}}
    document: dict[str, Any] = {
        "data": source(prompt="text", completion="category") | {"heldOutPercent": 0, "steps": [{"type": "dedupExact"}]},
        "suites": [],
        "model": {"uri": base.model_uri, "digest": base.model_digest},
    }
    result = prepare(task("some", training=training, **document))
    assert result.dropped == {"tooLong": 1}
    assert result.train_rows + result.validation_rows == 40
    alone = training | {"validation": {"percent": 50, "maxRows": 1}}
    with pytest.raises(StageFailure, match=r"EmptyData: none of the 1 rows .* \(tooLong 1\).*maxRows"):
        prepare(task("none", training=alone, **document))


def test_packing_fills_sequences(rows: Path) -> None:
    result = prepare(task("packed", training={"method": "pretrain", "maxLength": 64, "packing": True}))
    data = Dataset(rows / "store" / "prepared" / "packed" / FILE)
    assert data.packed
    assert result.sequences == len(data) < result.train_rows
    assert data.lengths.max() <= 64
    assert [len(data.rows([n])) for n in range(len(data))] == [len(data.segments(n)) for n in range(len(data))]
    assert data.trained.sum() == result.trained_tokens


@pytest.fixture
def copied(rows: Path) -> Path:
    """A model's folder without a manifest, as it comes from elsewhere: pvc://claim/copied."""
    base = prepare(task("base"))
    folder = rows / "copied"
    shutil.copytree(rows / "store" / "prepared" / "base" / "model", folder)
    (folder / MANIFEST).unlink()
    assert base.model_digest == Manifest.of(folder).digest
    return folder


def on_the_copied(name: str, **model: Any) -> PrepareTask:
    data = source(prompt="text", completion="category") | {"steps": [{"type": "dedupExact"}]}
    training = {"method": "sft", "maxLength": 64}
    return task(name, model={"uri": "pvc://claim/copied"} | model, data=data, training=training)


def test_of_a_model_without_a_manifest_prepare_tells_the_digest_and_leaves_the_manifest(
    rows: Path, copied: Path
) -> None:
    result, made = prepare(on_the_copied("plain")), Manifest.of(copied)
    assert (result.model_digest, result.model_unlisted) == (made.digest, True)
    prepared = rows / "store" / "prepared" / "plain"
    assert Manifest.model_validate_json((prepared / MODEL_MANIFEST).read_text()) == made
    assert json.loads((prepared / PROVENANCE).read_text())["model"]["digest"] == made.digest
    again = prepare(on_the_copied("given", digest=made.digest))
    assert (again.model_digest, again.model_unlisted) == (None, True)


def test_of_a_model_with_a_manifest_prepare_tells_the_digest_if_the_task_has_none(rows: Path, copied: Path) -> None:
    made = Manifest.of(copied)
    made.write(copied)
    result = prepare(on_the_copied("listed"))
    assert (result.model_digest, result.model_unlisted) == (made.digest, False)
    assert not (rows / "store" / "prepared" / "listed" / MODEL_MANIFEST).exists()


def test_a_model_without_a_manifest_that_is_another_than_the_digest_says_is_refused(copied: Path) -> None:
    digest = Manifest.of(copied).digest
    with (copied / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"!")
    with pytest.raises(ManifestError, match=f"expected {digest}"):
        prepare(on_the_copied("other", digest=digest))


def source(**columns: str) -> dict[str, Any]:
    return {"sources": [{"name": "rows", "uri": "pvc://claim/rows.csv", "columns": columns}]}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data": source(prompt="question")}, "WrongColumn"),
        ({"data": source(prompt="text") | {"steps": [{"type": "filterLength", "minCharacters": 999}]}}, "EmptyData"),
        ({"data": source(prompt="text"), "training": {"method": "sft"}, "suites": []}, "AllRowsMasked"),
        ({"model": {"new": {"architecture": {"model_type": "hal9000"}}}}, "UnknownArchitecture"),
        ({"suites": [{"name": "s", "kind": "retention", "items": "data", "delta": 0.01}]}, "SuiteTooShort.*delta 0.01"),
        ({"suites": [{"name": "s", "kind": "floor", "items": "feedback"}]}, "SuiteTooShort: suite s: has 0 items"),
        ({"suites": [{"name": "s", "kind": "floor", "uri": "pvc://claim/rows.csv"}]}, "BadItems.*text, category"),
        ({"contract": {"uri": "pvc://claim/rows.csv"}}, "BadItems: evaluation.contract: .*rows.csv: line 1: not JSON"),
    ],
)
def test_bad_input_ends_with_its_reason(rows: Path, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(StageFailure, match=reason):
        prepare(task("bad", **fields))


def test_rows_under_a_system_prompt_have_their_items(rows: Path) -> None:
    system = {"role": "system", "content": "Name the topic."}
    lines = [
        {"messages": [system, {"role": "user", "content": text}, {"role": "assistant", "content": topic}]}
        for text, topic in ROWS
    ]
    (rows / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"sources": [{"name": "chats", "uri": "pvc://claim/chats.jsonl"}]}
    result = prepare(task("chats", data=data))
    assert result.suites[0].items == result.held_out_rows > 5
    [first, *_] = (rows / "store" / "prepared" / "chats" / "heldout" / "target.jsonl").read_text().splitlines()
    assert json.loads(first)["messages"][0] == system


def test_a_wrong_digest_of_the_model_is_refused(rows: Path) -> None:
    base = prepare(task("base"))
    with pytest.raises(ManifestError, match="expected sha256:0000"):
        prepare(task("next", model={"uri": base.model_uri, "digest": "sha256:" + "0" * 64}))
