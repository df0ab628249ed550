"""The command line."""

import pytest

from driftloop.cli.main import main


def test_help_tells_every_flag_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["operator", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for flag in ("--trainer-image", "--namespaces", "--alertmanager-urls", "--webhook-token-file", "--lease-seconds"):
        assert flag in told
        assert "DRIFTLOOP_" + flag[2:].replace("-", "_").upper() in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["operator"], "set --trainer-image"),
        (["operator", "--trainer-image=t", "--server-image=s", "--lease-seconds=1"], "--lease-seconds must be larger"),
        (["operator", "--qps=none"], "--qps"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
