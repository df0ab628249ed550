"""An API server that would drop what a training needs is refused at the start, with the version that would do."""

from typing import Any, cast

import pytest

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.serverversion import TRIES, UnsupportedServer, require_supported, too_old


def version(minor: str, major: str = "1") -> dict[str, Any]:
    return {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0"}


@pytest.mark.parametrize("minor", ["31", "31+", "40"])
def test_a_server_from_1_31_on_will_do(minor: str) -> None:
    assert too_old(version(minor)) is None
    assert too_old(version("0", major="2")) is None


@pytest.mark.parametrize("found", [version("30"), version("9"), {}, {"major": "", "minor": ""}])
def test_an_older_one_and_one_that_does_not_tell_are_refused(found: dict[str, Any]) -> None:
    message = too_old(found)
    assert message is not None
    assert "1.31 or newer" in message


class Server:
    """Answers /version in turn."""

    def __init__(self, *answers: dict[str, Any] | ApiError) -> None:
        self.answers = list(answers)

    async def version(self) -> dict[str, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer


async def test_a_server_that_does_not_answer_yet_wants_retry_but_not_for_ever() -> None:
    away = ApiError(0, "Unreachable", "refused")
    await require_supported(cast(Api, Server(*[away] * (TRIES - 1), version("31"))), pause=0)
    with pytest.raises(ApiError):
        await require_supported(cast(Api, Server(away)), pause=0)
    with pytest.raises(UnsupportedServer, match=r"v1\.30\.0"):
        await require_supported(cast(Api, Server(away, version("30"))), pause=0)
