"""Which requests count for drift: none of one text or one user beyond a share of the last requests. Pure.

The detector assumes that requests depend little on each other. A retry loop, a health check with a prompt, or a script
that sends the same question for hours would otherwise look like a change of all users. Of the last `WINDOW` requests at
most 1 % with the same text are counted, and 2 % of the same user, or twice the average share where a service has only
few texts or users. Keys are fingerprints, by default hashes that are different in each process; no text and no user is
kept.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable

from driftloop.contract.text import normalise

WINDOW = 500  # requests
TEXTS = 5
USERS = 10
_FAIR = 2  # times the average share
_Key = int | None  # None: the request was not counted, or its user is unknown


class Shares:
    """The last requests. `last` are those of an earlier object with the same fingerprints."""

    def __init__(self, fingerprint: Callable[[str], int] = hash, last: Iterable[tuple[_Key, _Key]] = ()) -> None:
        self._fingerprint = fingerprint
        self._last: deque[tuple[_Key, _Key]] = deque(last, WINDOW)
        self._texts = Counter(text for text, _ in self._last if text is not None)
        self._users = Counter(user for _, user in self._last if user is not None)

    @property
    def last(self) -> list[tuple[_Key, _Key]]:
        """The fingerprints of text and user of the last requests."""
        return list(self._last)

    def admits(self, text: str, user: str | None) -> bool:
        """Whether this request counts; it is one of the last requests in any case."""
        if len(self._last) == WINDOW:
            old_text, old_user = self._last.popleft()
            _forget(self._texts, old_text)
            _forget(self._users, old_user)
        text_key = self._fingerprint(normalise(text).casefold())
        user_key = None if user is None else self._fingerprint(user)
        admitted = _has_room(self._texts, text_key, TEXTS) and (
            user_key is None or _has_room(self._users, user_key, USERS)
        )
        if not admitted:
            self._last.append((None, None))
            return False
        self._last.append((text_key, user_key))
        self._texts[text_key] += 1
        if user_key is not None:
            self._users[user_key] += 1
        return True


def user_of(body: object) -> str | None:
    """Who sends a request, if its body says so: `safety_identifier`, or `user`, which it replaces."""
    if not isinstance(body, dict):
        return None
    for field in ("safety_identifier", "user"):
        value = body.get(field)
        if isinstance(value, str) and value:
            return value
    return None


def _has_room(counts: Counter[int], key: int, share: int) -> bool:
    return counts.get(key, 0) < max(share, _FAIR * WINDOW / max(1, len(counts)))


def _forget(counts: Counter[int], key: _Key) -> None:
    if key is not None:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
