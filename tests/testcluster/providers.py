"""The kinds of cluster, and the choice of one."""

from typing import Protocol

from testcluster import current, kind, local
from testcluster.console import Error
from testcluster.files import replace_text
from testcluster.paths import BUILD


class Provider(Protocol):
    """The operations of every kind of cluster. Each kind is a module."""

    def up(self) -> None: ...
    def down(self) -> None: ...
    def provide_images(self, names: list[str]) -> dict[str, str]: ...
    def add_volume(self, name: str) -> None: ...
    def fail_node(self, name: str) -> None: ...
    def heal_node(self, name: str) -> None: ...
    def status(self) -> str: ...


PROVIDERS: dict[str, Provider] = {"current": current, "kind": kind, "local": local}
_CHOSEN = BUILD / "provider"


def choose(name: str) -> Provider:
    """The provider with this name. `auto` is the one in use, or else kind if it can run, or else local."""
    if name == "auto":
        name = _CHOSEN.read_text() if _CHOSEN.exists() else "kind" if kind.usable() else "local"
    if name not in PROVIDERS:
        raise Error(f"CLUSTER={name} is unknown; use one of auto, {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def remember(provider: Provider | None) -> None:
    """Make `provider` the default of later commands; None removes the default."""
    if provider is None:
        _CHOSEN.unlink(missing_ok=True)
        return
    replace_text(_CHOSEN, next(name for name, known in PROVIDERS.items() if known is provider))
