"""Users' ratings of answers: checks and counts them, and stores them as rows for training."""

import asyncio
import hmac
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from weakref import WeakValueDictionary

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from driftloop.contract.prompts import prompt_from
from driftloop.contract.task import ServeTask
from driftloop.contract.text import Side, is_blank, side
from driftloop_server.openai_api import ApiError, add_route, errors_as_json, read_json
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.identity import Forged, ResponseId, Signer
from driftloop_server.proxy.memory import Answer, Memory
from driftloop_server.proxy.metrics import ProxyMetrics
from driftloop_server.proxy.segments import STORAGE_ERRORS, Segments
from driftloop_server.proxy.topics import Topics
from driftloop_server.proxy.weights import Weights

log = logging.getLogger(__name__)

FEEDBACK = "/v1/feedback"  # the path
TOKEN_ENV = "DRIFTLOOP_FEEDBACK_TOKEN"  # noqa: S105 - a name
MIN_SECRET = 16  # characters
MAX_BODY = 1 << 20  # bytes
WINDOW = timedelta(days=7)  # time after an answer in which it can be rated
MAX_HEARD = 50_000  # ratings that are remembered
MAX_REVISIONS = 16  # whose users are remembered
MAX_USERS = 100_000  # users per hour with a count of their own; further ones share one count

Rating = Literal["positive", "negative", "correction"]
Key = tuple[str, str, str | None, bool]  # what makes two ratings the same: response_id, rating, correction, consent
Status = dict[str, str | None]  # the response


class FeedbackBody(BaseModel):
    """The body of POST /v1/feedback."""

    model_config = ConfigDict(strict=True, extra="forbid")
    response_id: str = Field(max_length=512, description="The `id` of the answer.")
    rating: Rating
    consent: bool = Field(
        description="Whether the row may be stored and used for training. If not, it is only counted."
    )
    correction: str | None = Field(None, min_length=1, max_length=65_536, description="The correct answer.")
    user: str = Field(
        "", max_length=256, description="The rating user, stored as a keyed hash. Rate limits apply per user."
    )
    prompt: Any = Field(None, description="The prompt or the messages, exactly as sent.")
    completion: str | None = Field(None, max_length=65_536, description="The answer, exactly as received.")


class UserCap:
    """Limits ratings per user and hour. Each pod counts for itself."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._hour = -1
        self._counts: Counter[str] = Counter()

    def take(self, user: str, now: float) -> float:
        """Count one rating. Returns 0, or the seconds until the user may rate again."""
        hour = int(now // 3600)
        if hour != self._hour:
            self._hour, self._counts = hour, Counter()
        if user not in self._counts and len(self._counts) >= MAX_USERS:
            user = ""
        if self._counts[user] >= self._limit:
            return (hour + 1) * 3600 - now
        self._counts[user] += 1
        return 0


@dataclass(frozen=True)
class Rated:
    """A rating that passed all checks, with the rated answer."""

    identity: ResponseId
    body: FeedbackBody
    rating: Rating
    answer: Answer

    @property
    def trainable(self) -> bool:
        """Whether it contains a good answer to a prompt that prepare can read."""
        answer, prompt = self.answer, self.answer.prompt
        complete = bool(answer.completion.strip()) and answer.whole
        has_answer = self.rating == "correction" or (self.rating == "positive" and complete)
        return has_answer and bool(prompt.text.strip()) and prompt.readable


def check_token(request: web.Request, token: bytes) -> None:
    """Raises ApiError 401 without the service's token."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token):
        raise ApiError(401, "feedback needs the service's bearer token", headers={"WWW-Authenticate": "Bearer"})


class Feedback:
    """The feedback endpoint. It has its own port and token, as not every client of the model may train it."""

    def __init__(
        self,
        task: ServeTask,
        token: str,
        signer: Signer,
        memory: Memory,
        segments: Segments,
        metrics: ProxyMetrics,
        busy: Busy,
        topics: Topics | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._task = task
        self._token = token.encode()
        self._signer = signer
        self._memory = memory
        self._segments = segments
        self._metrics = metrics
        self._busy = busy
        self._topics = topics
        self._clock = clock
        self._cap = UserCap(task.feedback_max_per_user_per_hour)
        self._weights: dict[str, Weights] = {}
        # Previous ratings and their responses: a retry of a client that missed the response isn't counted twice.
        self._heard: OrderedDict[Key, Status] = OrderedDict()
        # A retry may also arrive while the first one is still being stored. Locks exist as long as somebody waits.
        self._in_turn: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY)
        add_route(app, "POST", FEEDBACK, self.post)
        return app

    async def post(self, request: web.Request) -> web.Response:
        check_token(request, self._token)
        with self._busy.running():
            return await self._rated(request)

    async def _rated(self, request: web.Request) -> web.Response:
        body = parse_feedback(await read_json(request))
        now = self._clock()
        identity = self._identify(body, now)
        key = (body.response_id, body.rating, body.correction, body.consent)
        async with self._in_turn.setdefault(key, asyncio.Lock()):
            return web.json_response(self._heard.get(key) or await self._take(key, identity, body, now))

    async def _take(self, key: Key, identity: ResponseId, body: FeedbackBody, now: datetime) -> Status:
        rated = self._rate(identity, body)
        if wait := self._cap.take(body.user, now.timestamp()):
            headers = {"Retry-After": str(int(wait) + 1)}
            raise ApiError(429, "this user has reached the limit of ratings per hour", code="user_cap", headers=headers)
        stored_side = await self._store(rated, now) if body.consent else None
        counts = self._weights_of(identity.revision).counts(body.user)
        self._metrics.feedback(identity.revision, identity.version, rated.rating, counts=counts)
        status: Status = {"status": "counted" if stored_side is None else "stored", "side": stored_side}
        self._heard[key] = status
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)
        return status

    def _weights_of(self, revision: str) -> Weights:
        """The users of a revision's ratings. There are two revisions during a rollout, and rarely more."""
        if revision not in self._weights and len(self._weights) >= MAX_REVISIONS:
            self._weights.clear()
        return self._weights.setdefault(revision, Weights())

    def _identify(self, body: FeedbackBody, now: datetime) -> ResponseId:
        try:
            identity = self._signer.read(body.response_id)
        except Forged as error:
            raise ApiError(403, f"response_id: {error}", param="response_id", code="forged") from None
        if now.timestamp() - identity.created > WINDOW.total_seconds():
            days = WINDOW.days
            raise ApiError(
                410, f"response_id: answers can be rated for {days} days", param="response_id", code="expired"
            )
        return identity

    def _rate(self, identity: ResponseId, body: FeedbackBody) -> Rated:
        """The rating with its answer, from memory or else from the body. Raises ApiError 409 if neither has it."""
        answer = self._memory.get(body.response_id)
        prompt = answer.prompt if answer else None
        if body.prompt is not None:
            sent = prompt_from(body.prompt)
            if sent is None or sent.hash != identity.prompt:
                raise ApiError(
                    409, "prompt: not the prompt of this response_id", param="prompt", code="prompt_mismatch"
                )
            prompt = prompt or sent  # the prompt from memory has the tools too
        completion = answer.completion if answer else body.completion
        if prompt is None or (completion is None and body.rating == "positive"):
            raise ApiError(
                409,
                "this pod doesn't have the answer (any more): send prompt and completion with the rating",
                param="prompt" if prompt is None else "completion",
                code="answer_unknown",
            )
        rating: Rating = "correction" if body.correction is not None else body.rating
        return Rated(identity, body, rating, Answer(prompt, completion or "", answer is None or answer.whole))

    async def _store(self, rated: Rated, now: datetime) -> Side:
        salt = self._task.held_out_salt or self._task.family
        row_side = side(salt, rated.answer.prompt.identity, self._task.held_out_percent)
        try:
            await self._segments.append(rated.identity.version, self._row(rated, row_side, now))
        except STORAGE_ERRORS as error:
            log.error("feedback can't be stored: %s", error)
            raise ApiError(
                503, "the feedback can't be stored now: try again", code="storage", headers={"Retry-After": "5"}
            ) from error
        if self._topics:
            at = datetime.fromtimestamp(rated.identity.created, UTC)
            self._topics.consented(at, rated.answer.prompt.text, rated.body.user, rated.body.response_id)
        if rated.trainable:
            self._metrics.eligible(rated.identity.revision, rated.identity.version, row_side)
        return row_side

    def _row(self, rated: Rated, row_side: Side, now: datetime) -> dict[str, Any]:
        answer, user = rated.answer, rated.body.user
        return {
            "id": rated.body.response_id,
            "version": rated.identity.version,
            **answer.prompt.stored(),
            "completion": answer.completion,
            **({} if answer.whole else {"partial": True}),
            "rating": rated.rating,
            "correction": rated.body.correction,
            "user": self._signer.pseudonym(user) if user else "",
            "created": _timestamp(now),
            "expires": _timestamp(now + timedelta(days=self._task.feedback_retention_days)),
            "side": row_side,
        }


def parse_feedback(document: dict[str, Any]) -> FeedbackBody:
    """Validate the body. Raises ApiError 400 that names the field."""
    try:
        body = FeedbackBody.model_validate({key: value for key, value in document.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(first["loc"][0])
        raise ApiError(400, f"{field}: {first['msg']}", param=field, code="invalid_value") from None
    if body.rating == "correction" and body.correction is None:
        raise ApiError(
            400, "correction: required if the rating is correction", param="correction", code="invalid_value"
        )
    if body.correction is not None and is_blank(body.correction):
        raise ApiError(400, "correction: is blank: give the right answer", param="correction", code="invalid_value")
    if body.rating == "positive" and body.correction is not None:
        raise ApiError(400, "rating: can't be positive with a correction", param="rating", code="invalid_value")
    return body


def _timestamp(time: datetime) -> str:
    """The time in RFC 3339 format."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
