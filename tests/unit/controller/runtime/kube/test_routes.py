"""HTTPRoutes are read by name. That the cluster has no such kind, or grants no right to it, is no missing route."""

from typing import Any, cast

import pytest

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.routes import Routes
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.world import RouteUnknown

ROUTE = {"kind": "HTTPRoute"}
FORBIDDEN = ApiError(403, "Forbidden", "httproutes is forbidden")


class Server:
    """An API server with one answer, which serves HTTPRoutes or does not."""

    def __init__(self, answer: dict[str, Any] | ApiError | None, serves: bool = True) -> None:
        self._answer, self._serves = answer, serves

    async def get(self, resource: object, namespace: str, name: str) -> dict[str, Any] | None:
        if isinstance(self._answer, ApiError):
            raise self._answer
        return self._answer

    async def serves(self, resource: object) -> bool:
        return self._serves


async def read(server: Server) -> Any:
    return await Routes(cast(Api, server)).route("team", "desk")


async def test_a_route_is_read_and_one_that_does_not_exist_is_none() -> None:
    assert await read(Server(ROUTE)) == ROUTE
    assert await read(Server(None)) is None


@pytest.mark.parametrize(
    ("server", "reason", "advice"),
    [
        (Server(None, serves=False), Reason.GATEWAY_API_MISSING, "install Gateway API's standard channel"),
        (Server(FORBIDDEN), Reason.GATEWAY_FORBIDDEN, "add httproutes"),
    ],
)
async def test_what_can_not_be_read_is_unknown_with_what_to_do(server: Server, reason: Reason, advice: str) -> None:
    found = await read(server)
    assert isinstance(found, RouteUnknown)
    assert found.reason == reason
    assert advice in found.message


async def test_an_api_server_that_fails_is_asked_again() -> None:
    with pytest.raises(ApiError):
        await read(Server(ApiError(503, "Unavailable", "later")))
