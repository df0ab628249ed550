"""The model's names: that of the service, by which clients ask for it, and that by which the engine knows it. Pure.

They differ only if the engine adds an adapter to a base by itself. Then the engine serves the base too, under a name of
its own, and gives it to a request without a name. No client may get the base, so each request gets the adapter's name.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from driftloop_server.openai_api import no_such_model


@dataclass(frozen=True)
class Names:
    """Both names of what is served."""

    of_clients: str
    of_engine: str

    @property
    def differ(self) -> bool:
        """Whether requests and answers must be changed."""
        return self.of_clients != self.of_engine

    def addressed(self, document: dict[str, Any]) -> bytes:
        """The body of a request, with the engine's name. Raises ApiError 404 if it names another model."""
        requested = document.get("model")
        if requested not in (None, "", self.of_clients):
            raise no_such_model(str(requested), self.of_clients)
        named = document | {"model": self.of_engine}
        return json.dumps(named, ensure_ascii=False, separators=(",", ":")).encode()

    def cards(self, cards: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The engine's list of models as clients may see it: one model, with what the engine says of its base."""
        if not self.differ:
            return list(cards)
        known = list(cards)
        is_served = any(card.get("id") == self.of_engine for card in known)
        bases = (card for card in known if card.get("id") != self.of_engine)
        return [card | {"id": self.of_clients} for card in list(bases)[:1] if is_served]
