import json
import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.textstats import (
    MAX_CHARACTERS,
    PAIRS,
    VOCABULARY,
    build_profile,
    load_document,
    parse_profile,
    words,
)

PROMPTS = [
    f"where is order {chr(97 + i % 26)}{chr(97 + i // 26)} that I placed {'long ' * (i % 7)}ago" for i in range(600)
]
texts = st.text(max_size=300)


def test_words_hide_numbers_and_addresses() -> None:
    assert words("Mail Ann.Lee@shop.example about 4711, ORDER no. 12-34!") == [
        "mail", "email", "about", "0", "order", "no", "0", "0",
    ]  # fmt: skip


def test_scripts_without_spaces_count_by_the_character() -> None:
    assert words("我的卡 card カード") == ["我", "的", "卡", "card", "カ", "ー", "ド"]


def test_masses_are_shares_of_the_scored_half() -> None:
    document = build_profile(PROMPTS)
    assert 0 < document["rows"] < len(PROMPTS)
    for masses in parse_profile(document).masses().values():
        assert math.isclose(sum(masses), 1.0)
        assert all(mass > 0 for mass in masses[:-1])


def test_a_new_word_counts_even_if_the_reference_had_none() -> None:
    profile = parse_profile(build_profile([f"where is my order {'please ' * (i % 40)}" for i in range(500)]))
    assert profile.bins("where is my order")["oov"] == 0
    assert profile.bins("where is my zeppelin")["oov"] == 1


def test_unknown_text_is_more_surprising_than_known() -> None:
    profile = parse_profile(build_profile(PROMPTS))
    known, unknown = profile.scores("where is order aa"), profile.scores("zeppelin maintenance interval")
    assert unknown["surprisal"] > known["surprisal"]
    assert unknown["oov"] == 1.0


def test_known_words_in_new_pairs_are_surprising() -> None:
    profile = parse_profile(build_profile(PROMPTS))
    assert (
        profile.scores("ago placed I that order is where")["surprisal"] > profile.scores("where is order")["surprisal"]
    )
    assert profile.scores("ago placed I that order is where")["oov"] == 0.0


@given(st.lists(texts, max_size=40), texts)
def test_every_text_falls_into_a_bin_of_every_profile(prompts: list[str], text: str) -> None:
    profile = parse_profile(json.loads(json.dumps(build_profile(prompts))))
    masses = profile.masses()
    for signal, index in profile.bins(text).items():
        assert 0 <= index < len(masses[signal])


@given(st.permutations(PROMPTS[:60]))
def test_order_of_rows_changes_nothing(prompts: list[str]) -> None:
    assert build_profile(prompts) == build_profile(PROMPTS[:60])


def test_copies_of_a_row_stay_in_one_half() -> None:
    one = build_profile(["how long does a refund take"] * 50)
    assert (one["rows"], len(one["words"])) in {(50, 0), (0, 6)}


def test_profile_and_cost_are_bounded() -> None:
    names = ["".join(letters) for letters in product("abcdefghij", repeat=5)]
    many = [" ".join(names[i : i + 50]) for i in range(0, len(names), 25)]
    document = build_profile(many)
    assert len(document["words"]) == VOCABULARY
    assert len(document["pairs"]) == PAIRS
    assert len(words("a " * MAX_CHARACTERS)) == MAX_CHARACTERS // 2


def test_missing_profile_is_none_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert load_document(tmp_path / "absent.json") is None
    for broken in ("", "[]", "{}", json.dumps(build_profile(PROMPTS) | {"version": 2})):
        (tmp_path / "profile.json").write_text(broken)
        with pytest.raises(ValueError, match="profile"):
            parse_profile(load_document(tmp_path / "profile.json"))
    document = build_profile(PROMPTS)
    document["signals"]["oov"]["masses"].append(0.5)
    with pytest.raises(ValueError, match="oov"):
        parse_profile(document)


def test_what_only_one_prompt_has_can_be_left_out() -> None:
    prompts = [f"where is my card {chr(97 + n % 26) * (1 + n // 26)}" for n in range(200)]
    found = parse_profile(build_profile(prompts * 2, shared=2))
    assert set(found.words) == {"where", "is", "my", "card"}
    assert set(found.pairs) == {" where", "where is", "is my", "my card"}
    assert found.rows == build_profile(prompts * 2)["rows"]
