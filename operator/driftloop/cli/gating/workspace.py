"""The temporary folder of `driftloop gate`: it stands for the volumes of the pods. No folder of the user is changed."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from driftloop.api.evaluation import Contract
from driftloop.api.modelversion import ModelArtefact
from driftloop.api.suite import SuiteSpec
from driftloop.cli.manifests import BadInput
from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.uris import join

CLAIM = "pvc://gate"


@dataclass(frozen=True)
class Workspace:
    """The folder with everything that the processes read and write."""

    folder: Path

    @property
    def volumes(self) -> Path:
        """The folder in which each volume is a folder."""
        return self.folder / "volumes"

    @property
    def served(self) -> Path:
        """The copy of the model that is served now."""
        return self.folder / "served"

    def path(self, uri: str) -> Path:
        """Where a URI of CLAIM is on this machine."""
        return self.volumes / uri.removeprefix("pvc://")

    def artefact(self, name: str, model: Path) -> ModelArtefact:
        """The model as an artefact, by links: with its own manifest, else with a new one. Raises BadInput."""
        uri = join(CLAIM, name)
        target = self.path(uri)
        try:
            if (model / MANIFEST).exists():
                manifest = Manifest.read(model)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(model.resolve(), target_is_directory=True)
            else:
                manifest = Manifest.of(model)
                _link_all(model, target, manifest)
        except (ManifestError, OSError, ValueError) as error:
            raise BadInput(f"{model}: {error}") from error
        return ModelArtefact(uri=uri, digest=manifest.digest)

    def suites(self, suites: list[SuiteSpec], items: Mapping[str, Path]) -> list[SuiteSpec]:
        """The suites, those with a file on this machine with its URI here."""
        return [self._suite(suite, items[suite.name]) if suite.name in items else suite for suite in suites]

    def contract(self, contract: Contract | None, requests: Path | None) -> Contract | None:
        """The contract, with the URI here of its file on this machine."""
        if contract is None or requests is None:
            return contract
        return contract.model_copy(update={"uri": self._linked(requests, "requests")})

    def _suite(self, suite: SuiteSpec, file: Path) -> SuiteSpec:
        return suite.model_copy(update={"uri": self._linked(file, "items"), "items": None})

    def _linked(self, file: Path, folder: str) -> str:
        uri = join(CLAIM, folder, file.name)
        target = self.path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
        return uri

    def forget_served(self) -> None:
        """Delete the copy of the model, to make room for the next one."""
        shutil.rmtree(self.served, ignore_errors=True)


def _link_all(model: Path, target: Path, manifest: Manifest) -> None:
    """A folder with links to the model's files, and the manifest."""
    target.mkdir(parents=True)
    for entry in manifest.files:
        link = target / entry.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((model / entry.path).resolve())
    manifest.write(target)
