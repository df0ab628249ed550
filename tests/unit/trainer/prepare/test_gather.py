import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from driftloop.contract.task import PrepareTask
from driftloop_trainer.prepare.gather import gather

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def task(**data: Any) -> PrepareTask:
    sources = [{"name": "new", "uri": "pvc://claim/new.jsonl"}]
    document = {
        "job": "job",
        "jobUid": "uid",
        "family": "family",
        "model": {"uri": "pvc://claim/model"},
        "data": {"sources": sources} | data,
        "feedback": {"uri": "pvc://claim/feedback"},
        "training": {},
        "storage": "pvc://claim/store",
        "output": "pvc://claim/store/prepared/uid",
    }
    return PrepareTask.model_validate(document)


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def rating(number: int, **fields: Any) -> dict[str, Any]:
    created = {"created": NOW.isoformat(), "expires": (NOW + timedelta(days=1)).isoformat()}
    said = {"prompt": f"rated {number * 7919}", "completion": "said", "rating": "correction", "correction": "right"}
    return {"id": str(number)} | said | created | fields


def test_every_record_is_trained_on_held_out_or_counted_by_its_reason(volume: Path) -> None:
    new = [{"prompt": f"question {n * 7919} about {n**3}", "completion": str(n)} for n in range(60)]
    broken = [{"prompt": " ", "completion": "x"}, {"prompt": "cut \ud83d", "completion": "x"}]
    chats = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]}]
    old = [{"prompt": f"older {n * 7919} about {n**3}", "completion": str(n)} for n in range(60)]
    ratings = [rating(n) for n in range(20)]
    ratings += [rating(90, rating="negative"), rating(91, expires=NOW.isoformat()), rating(0, correction="other")]
    write(volume / "new.jsonl", [*new, new[0], *broken])
    write(volume / "chats.jsonl", chats)
    write(volume / "old.jsonl", [*old, {"prompt": "Rated 0", "completion": "wrong"}])
    write(volume / "feedback" / "v" / "pod" / "1.jsonl", ratings)
    gathered = gather(
        task(
            sources=[{"name": name, "uri": f"pvc://claim/{name}.jsonl"} for name in ("new", "chats")],
            replay={"sources": [{"name": "old", "uri": "pvc://claim/old.jsonl"}], "fraction": 0.5},
        ),
        volume,
        NOW,
    )
    read = len(new) + 1 + len(broken) + len(chats) + len(old) + 1 + len(ratings)
    assert len(gathered.train) + len(gathered.held_out) + sum(gathered.dropped.values()) == read
    assert (
        gathered.dropped.items()
        >= {
            "emptyPrompt": 1,
            "loneSurrogate": 1,
            "emptyAnswer": 1,
            "dedupExact": 1,
            "contradicted": 1,
            "feedback.noAnswer": 1,
            "feedback.expired": 1,
            "feedback.superseded": 1,
        }.items()
    )
    assert 10 < gathered.dropped["notReplayed"] < 50


def test_with_kto_ratings_are_labelled_answers(volume: Path) -> None:
    new = [{"prompt": f"question {n * 7919} about {n**3}", "completion": "yes", "label": n % 2 == 0} for n in range(9)]
    write(volume / "new.jsonl", new)
    ratings = [rating(0), rating(1, rating="negative"), rating(2, rating="positive")]
    write(volume / "feedback" / "v" / "pod" / "1.jsonl", ratings)
    document = task(heldOutPercent=0, steps=[]).dump() | {"training": {"method": "kto"}}
    gathered = gather(PrepareTask.model_validate(document), volume, NOW)
    rated = [(row.prompt, row.completion, row.label) for row in gathered.train if row.part == "feedback"]
    assert sorted(rated) == [
        ("rated 0", "right", True),
        ("rated 0", "said", False),
        ("rated 15838", "said", True),
        ("rated 7919", "said", False),
    ]
    assert len(gathered.train) == 9 + 4
