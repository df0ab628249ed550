from driftloop_trainer.prepare.render import Example
from driftloop_trainer.prepare.sample import sample
from unit.trainer.templates import with_template


def test_what_counts_is_marked_and_long_prompts_are_cut() -> None:
    tokenizer = with_template(None)
    ids = tokenizer("a" * 1000 + "<eos>" + "b" * 10 + "<eos>")["input_ids"]
    shown = sample(Example(ids, ((1001, 1005), (1005, 1012))), tokenizer)
    assert shown == "…" + "a" * 399 + "<eos>⟦" + "b" * 10 + "<eos>⟧"
    assert sample(Example(ids[:3], ((1, 2),)), tokenizer) == "a⟦a⟧a"
