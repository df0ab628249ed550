import sys
from typing import Any

from driftloop.api.finetunejob import TrainingSpec
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.mismatch import with_mismatches
from driftloop_trainer.prepare.render import Example, Renderer
from driftloop_trainer.prepare.rendering import render


def per_token(example: Example) -> float:
    """Bytes, of a long example."""
    return sys.getsizeof(example.ids) / len(example.ids)


def test_an_example_that_is_kept_takes_four_bytes_per_token(tokenizer: Any) -> None:
    """Those of all rows are in memory until they are packed and written."""
    rows = [Row.answering("data", "s", "card " * 900, "a fee"), Row.answering("data", "s", "fee " * 900, "a card")]
    renderer = Renderer(tokenizer, TrainingSpec.model_validate({"maxLength": 4096}), None)
    examples = render(rows, renderer).examples
    assert all(4 <= per_token(example) < 4.5 for example in examples)
    rendered = [renderer.render(row).examples[0] for row in rows]
    assert [(list(kept.ids), kept.labels, kept.trained) for kept in examples] == [
        (example.ids, example.labels, example.trained) for example in rendered
    ]
    assert all(4 <= per_token(example) < 4.5 for example in with_mismatches(rows, examples, 4096))
