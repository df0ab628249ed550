"""What a line of a log means for drift: requests, something else, or nothing that can be read. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Request:
    """A request to a model. Its text is never printed or stored, nor shown in the representation."""

    at: datetime | None  # None: the line does not say
    text: str
    user: str | None = None
    identity: str | None = None  # the same for all lines about one request

    def __repr__(self) -> str:
        return f"Request({self.at}, {len(self.text)} characters)"


@dataclass(frozen=True)
class Requests:
    """The requests in a line; an OTLP line has many."""

    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Other:
    """A line of a known format that is not a request, such as a response or another message of a server's log."""


@dataclass(frozen=True)
class Unreadable:
    """A line that can't be used."""

    reason: str


Line = Requests | Other | Unreadable


class BadLine(ValueError):
    """A line that can't be used. The message is the reason, without any of the line's text."""


def one(at: datetime | None, text: str | None, user: str | None, identity: str | None) -> Requests:
    """The line of one request. Raises BadLine."""
    return several(at, [text], user, identity)


def several(at: datetime | None, texts: Sequence[str | None], user: str | None, identity: str | None) -> Requests:
    """The line of as many requests as there are texts. Raises BadLine."""
    checked = [_checked(text) for text in texts]
    names = [identity if number == 0 or identity is None else f"{identity} {number}" for number in range(len(checked))]
    return Requests(tuple(Request(at, text, user, name) for text, name in zip(checked, names, strict=True)))


def _checked(text: str | None) -> str:
    """The text of a request, as the proxy would count it. Raises BadLine."""
    if not text:
        raise BadLine("the request has no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadLine("the text is not valid Unicode") from error
    return text
