"""Which kind of cluster is meant."""

from typing import Protocol

from testcluster import current, kind, local
from testcluster.console import Error
from testcluster.paths import BUILD


class Provider(Protocol):
    """What every kind of cluster can do; each is a module."""

    def up(self) -> None: ...
    def down(self) -> None: ...
    def provide_images(self, names: list[str]) -> dict[str, str]: ...
    def add_volume(self, name: str) -> None: ...
    def fail_node(self, name: str) -> None: ...
    def heal_node(self, name: str) -> None: ...
    def status(self) -> str: ...


PROVIDERS: dict[str, Provider] = {"current": current, "kind": kind, "local": local}
_CHOSEN = BUILD / "provider"


def choose(asked: str) -> Provider:
    """The provider called `asked`; for `auto` the one in use, else kind where it can run, else local."""
    if asked == "auto":
        asked = _CHOSEN.read_text() if _CHOSEN.exists() else "kind" if kind.usable() else "local"
    if asked not in PROVIDERS:
        raise Error(f"CLUSTER={asked} is unknown; there are: auto, {', '.join(PROVIDERS)}")
    return PROVIDERS[asked]


def remember(provider: Provider | None) -> None:
    """Let later commands use `provider` without being told; None forgets it."""
    if provider is None:
        _CHOSEN.unlink(missing_ok=True)
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    _CHOSEN.write_text(next(name for name, each in PROVIDERS.items() if each is provider))
