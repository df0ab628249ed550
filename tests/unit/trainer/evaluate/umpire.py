"""A judge behind OpenAI's API, on a real socket: it prefers the answer that is the reference."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class Umpire:
    """`statuses` are given before verdicts begin. `prefers` A: it always prefers the first answer."""

    def __init__(
        self,
        *,
        statuses: list[int] | None = None,
        prefers: str = "reference",
        key: str = "",
        moved_to: str = "",
    ) -> None:
        self.statuses = statuses or []
        self.prefers = prefers
        self.key = key
        self.moved_to = moved_to
        self.asked: list[dict[str, Any]] = []

    async def judge(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        if self.moved_to:
            raise web.HTTPTemporaryRedirect(self.moved_to)
        body = await request.json()
        self.asked.append(body)
        if self.statuses:
            return web.json_response({"error": {"message": "not now"}}, status=self.statuses.pop(0))
        message = {"role": "assistant", "content": self._reply(json.loads(body["messages"][1]["content"]))}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def _reply(self, document: dict[str, str]) -> str:
        if self.prefers == "nothing":
            return "I can't decide."
        best = [name for name in ("A", "B") if document[f"Answer {name}"] == document["Reference answer"]]
        chosen = "A" if self.prefers == "A" else best[0] if len(best) == 1 else "tie"
        return f"Because of its content.\nVerdict: {chosen}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The base of its API for as long as it is served."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.judge)
        async with TestServer(app) as server:
            yield str(server.make_url("/v1"))
