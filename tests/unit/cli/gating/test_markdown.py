"""The Markdown of a report, exactly."""

from driftloop.cli.gating.markdown import markdown, plain
from unit.cli.gating.reports import BROKEN, FAILED

A, B = "a" * 64, "b" * 64


def test_a_report_has_the_verdict_the_models_and_a_row_per_gate() -> None:
    assert markdown(FAILED) == (
        "## Model gate: Failed\n"
        "\n"
        "old: Fail: a loss\n"
        "\n"
        f"- Model: models/new (`sha256:{A}`)\n"
        f"- Baseline: models/old (`sha256:{B}`)\n"
        "\n"
        "| gate | kind | verdict | value | baseline | items | message |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| digest | digest | Pass |  |  |  | the served model is the version's artefact |\n"
        "| api | api | Pass |  |  |  | 7 checks passed |\n"
        "| old | retention | Fail | 0.5000 | 1.0000 | 40 | a loss |\n"
        "| gain | target | Inconclusive |  |  |  | needs n \\>= 90 |\n"
    )


def test_without_gates_the_problem_is_the_text() -> None:
    assert markdown(BROKEN) == (
        "## Model gate: Unknown\n"
        "\n"
        "candidate: the engine: NoMemory: give it more\n"
        "\n"
        f"- Model: models/new (`sha256:{A}`)\n"
    )


def test_an_answer_in_a_message_can_not_become_markup() -> None:
    assert plain("a\n| b <img src=x> [x](y) @all `c`") == r"a \| b \<img src=x\> \[x\](y) \@all \`c\`"
