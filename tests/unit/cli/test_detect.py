"""`driftloop detect` as people call it: streams in several formats, exit codes, state, and what is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from driftloop.cli.exits import Exit
from driftloop.cli.main import main
from driftloop.contract.textstats import build_profile
from unit.cli.detecting.streams import NEW, OLD, REFERENCE, START, Sent, plain, requests, written

HOURS = 12
FAST = ("--reference-requests", "200", "--baseline-minimum-hours", "3")
LATER = START + timedelta(hours=HOURS)
Written = Callable[[Iterator[Sent]], Iterator[str]]


def vllm(sent: Iterator[Sent]) -> Iterator[str]:
    for at, text, _ in sent:
        prompt = f"<|im_start|>system\nBe nice<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        start, name = f"{at.isoformat()} (APIServer pid=1) DEBUG {at:%m-%d %H:%M:%S} [logger.py:40]", at.timestamp()
        yield f"{start} Request cmpl-{name} details: prompt: {prompt!r}, prompt_token_ids: None."
        yield f"{start} Received request cmpl-{name}: params: SamplingParams(n=1), lora_request: None."


def kserve(sent: Iterator[Sent]) -> Iterator[str]:
    for number, (at, text, user) in enumerate(sent):
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "user": user}
        kind = "org.kubeflow.serving.inference."
        event = {"specversion": "1.0", "id": str((at.timestamp(), number)), "time": at.isoformat(), "data": body}
        yield json.dumps(event | {"type": f"{kind}request"})
        yield json.dumps(event | {"type": f"{kind}response", "data": {"choices": []}})


def otlp(sent: Iterator[Sent]) -> Iterator[str]:
    for number, (at, text, user) in enumerate(sent):
        messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": messages, "user.id": user}
        span = {
            "spanId": f"{at.timestamp()} {number}",
            "startTimeUnixNano": str(int(at.timestamp() * 1e9)),
            "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
        }
        yield json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})


def run(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> tuple[int, dict[str, Any]]:
    code = main(["detect", "-o", "json", *FAST, *map(str, arguments)])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def refused(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["detect", *map(str, arguments)])
    assert caught.value.code == Exit.USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize("form", [plain, vllm, kserve, otlp])
def test_a_shift_is_an_alarm_in_every_format_and_nothing_is_one_before(
    form: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = written(tmp_path / "reference.jsonl", (json.dumps({"text": text}) for text in REFERENCE))
    calm = written(tmp_path / "calm.log", form(requests(OLD, HOURS)))
    code, found = run(capsys, "--reference", reference, calm)
    assert (code, found["verdict"], found["alarms"]) == (Exit.DONE, "Normal", [])
    assert found["requests"]["read"] > 1000
    shifted = written(tmp_path / "shifted.log", form(requests(NEW, 3, LATER, seed=2)))
    code, found = run(capsys, "--reference", reference, calm, shifted)
    assert (code, found["verdict"]) == (Exit.DRIFTED, "Drifted")
    assert found["message"].startswith("drift: ")
    assert max(abs(shift) for shift in found["shift"].values()) > 0.5
    assert found["changePoint"] >= LATER.isoformat()[:13]
    topics = found["alarms"][0]["topics"]
    assert "pedelec" in {term for topic in topics for term in topic["terms"]}
    places = [name.rpartition(" line ") for topic in topics for name in topic["examples"]]
    text = shifted.read_text().splitlines()
    assert {source for source, _, _ in places} == {str(shifted)}
    assert all("bike" in text[int(n) - 1] or "pedelec" in text[int(n) - 1] for _, _, n in places[:3])


def _letters(number: int) -> str:
    """Another word for each number: digits are not told apart."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def test_no_prompt_is_printed_or_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = [
        (at, f"{text} zanzibar{_letters(n)}", f"pegasus{n}") for n, (at, text, _) in enumerate(requests(OLD, HOURS))
    ]
    log = written(tmp_path / "log", plain(iter(sent)), iter(["{ zanzibar", '{"zanzibar": 1}']))
    state = tmp_path / "state"
    code = main(["detect", *FAST, str(log), "--state", str(state)])
    printed = capsys.readouterr()
    assert code == Exit.DONE, printed
    assert "line" in printed.out
    for secret in ("zanzibar", "pegasus"):
        assert secret not in printed.out + printed.err + state.read_text()


def test_a_growing_log_is_compared_with_its_beginning_by_a_later_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    old = list(plain(requests(OLD, HOURS)))
    assert run(capsys, written(log, iter(old)), "--state", state)[0] == Exit.DONE
    new = list(plain(requests(NEW, 3, LATER, seed=2)))
    rotated = written(tmp_path / "rotated", iter(new))
    code, found = run(capsys, written(log, iter([*old, *new])), "--state", state, "--until-alarm")
    assert (code, found["requests"]["readEarlier"]) == (Exit.DRIFTED, len(old))
    assert "pedelec" in {term for topic in found["alarms"][0]["topics"] for term in topic["terms"]}
    state.unlink()
    run(capsys, written(log, iter(old)), "--state", state)
    code, found = run(capsys, rotated, "--state", state)
    assert (code, found["alarms"][0]["topics"]) == (Exit.DRIFTED, None)


def test_a_state_lets_each_run_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    lines = [*plain(requests(OLD, HOURS)), *plain(requests(NEW, 3, LATER, seed=2))]
    codes, read = [], 0
    for share in (0.05, 0.2, 0.3, 0.8, 1.0):
        written(log, iter(lines[: int(share * len(lines))]))
        code, found = run(capsys, log, "--state", state)
        codes.append(code)
        read += found["requests"]["read"] if state.exists() else 0
    assert codes == [Exit.FAILED, Exit.FAILED, Exit.FAILED, Exit.DONE, Exit.DRIFTED]
    assert len(lines) - 4 <= read <= len(lines)
    code, found = run(capsys, log, "--state", state)
    assert (code, found["requests"]["read"], found["verdict"]) == (Exit.DRIFTED, 0, "Drifted")


def test_until_alarm_ends_with_the_first_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path / "log", plain(requests(OLD, HOURS)), plain(requests(NEW, 6, LATER, seed=2)))
    _, whole = run(capsys, log)
    code, found = run(capsys, log, "--until-alarm")
    assert code == Exit.DRIFTED
    assert found["alarms"][0]["raised"] == whole["alarms"][0]["raised"]
    assert found["requests"]["read"] < whole["requests"]["read"] - 200


def test_wrong_lines_are_named_and_the_rest_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    good = list(plain(requests(OLD, HOURS)))
    future = json.dumps({"time": "2999-01-01T00:00:00Z", "text": "x"})
    written(log, iter([good[0], "nonsense", '{"text": "no time"}', future, *good[1:]]))
    code, found = run(capsys, log)
    assert code == Exit.DONE
    assert [(fault["line"], fault["reason"]) for fault in found["lines"]["first"]] == [
        (2, "neither a JSON object nor a line of vLLM's log"),
        (3, "the request has no time"),
        (4, "the time is in the future"),
    ]
    assert found["requests"]["read"] == len(good)


def test_what_was_not_compared_is_not_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = written(tmp_path / "few", plain(requests(OLD, 1)))
    code, found = run(capsys, few)
    assert (code, found["verdict"]) == (Exit.FAILED, "Unknown")
    assert found["message"].startswith("learning what is normal: 1")
    day = written(tmp_path / "day", plain(requests(OLD, 4)))
    code, found = run(capsys, day)
    assert (code, found["message"].split(":")[0]) == (Exit.FAILED, "learning what is normal")
    empty = written(tmp_path / "empty")
    assert run(capsys, empty)[0] == Exit.FAILED


@pytest.mark.parametrize("number", [5, 5000])
def test_an_unknown_format_is_refused_with_the_known_ones(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = written(tmp_path / "log", iter(['127.0.0.1 - - "GET / HTTP/1.1" 200'] * number))
    told = refused(capsys, log)
    assert "no request found" in told
    assert "line 1: neither a JSON object nor a line of vLLM's log" in told
    assert "Known formats: JSON objects such as" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.log"], "gone.log: No such file"),
        (["--reference", "gone.jsonl", "x"], "--reference: gone.jsonl: No such file"),
        (["--tolerance", "2", "x"], "--tolerance: Input should be less than or equal to 1"),
        (["--prometheus", "http://x"], "--prometheus needs --service"),
        (["--prometheus", "http://x", "--service", "s", "file"], "leave FILE and --reference out"),
        (["--service", "s"], "set --prometheus too"),
        (["--state", "/gone/state"], "--state: /gone/state: No such file"),
        (["--reference-requests", "0"], "not a positive number"),
    ],
)
def test_wrong_options_name_the_option(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refused(capsys, *arguments)


def test_a_profile_of_a_model_is_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "drift_profile.json").write_text(json.dumps(build_profile(REFERENCE)))
    log = written(tmp_path / "log", plain(requests(OLD, HOURS)))
    assert run(capsys, "--reference", tmp_path, log)[0] == Exit.DONE


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("r.csv", "a,b\n1,2\n", "has no column text or prompt"),
        ("r.csv", "text\nhello\n", "has 1 texts, but a profile needs 100"),
        ("r.jsonl", "hello\n", "has 0 texts"),
        ("r.json", "{}", "is not a drift_profile.json of a model"),
        ("r.parquet", "PAR1", ".parquet is not read"),
    ],
)
def test_a_reference_that_is_none_is_told(
    name: str, content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert told in refused(capsys, "--reference", tmp_path / name, tmp_path / name)


def test_a_state_of_another_reference_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path / "log", plain(requests(OLD, HOURS)))
    csv = written(tmp_path / "r.csv", iter(["text", *(f'"{text}"' for text in REFERENCE)]))
    assert run(capsys, log, "--reference", csv, "--state", tmp_path / "state")[0] == Exit.DONE
    written(csv, iter(["text", *(f'"{text}"' for text in NEW)]))
    assert "Use another file, or remove it" in refused(capsys, log, "--reference", csv, "--state", tmp_path / "state")


def test_sigterm_keeps_what_was_read(tmp_path: Path) -> None:
    log, state = written(tmp_path / "log", plain(requests(OLD, HOURS))), tmp_path / "state"
    command = [sys.executable, "-m", "driftloop.cli.main", "detect", "--state", str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(log.read_text())
        process.stdin.flush()
        process.stderr.readline()  # the first line of progress: it is reading
        process.terminate()
        process.wait(30)
        assert process.returncode == Exit.TERMINATED
    assert json.loads(state.read_text())["status"]["consumedUntil"] > START.isoformat()[:10]


def test_torch_is_not_imported() -> None:
    code = "import sys; import driftloop.cli.detect; sys.exit(any(m in sys.modules for m in ('torch', 'kubernetes')))"
    subprocess.run([sys.executable, "-c", code], check=True)
