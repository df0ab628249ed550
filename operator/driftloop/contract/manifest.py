"""The manifest of a folder in storage: its files, and one digest over all of them.

The digest covers only content: paths and bytes.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Self

from pydantic import Field

from driftloop.api.base import ApiModel, Digest

MANIFEST = "manifest.json"
MAX_FILES = 100_000  # in a manifest


class ManifestError(ValueError):
    """A folder does not match its manifest or the expected digest."""


class ManifestEntry(ApiModel):
    """One file: path relative to the folder, size in bytes, hex sha256."""

    path: str = Field(max_length=1024, pattern=r"^[^/.\x00][^/\x00]*(/[^/.\x00][^/\x00]*)*$")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, file: Path, path: str) -> Self:
        """The entry of a file that is, or will be, at `path` in the folder."""
        return cls(path=path, size=file.stat().st_size, sha256=file_sha256(file))


class Manifest(ApiModel):
    """The files of a folder, sorted by path."""

    version: int = 1
    files: list[ManifestEntry] = Field(max_length=MAX_FILES)

    @property
    def digest(self) -> Digest:
        """`sha256:` and the hash of the sorted lines `sha256 size path`."""
        lines = "".join(f"{f.sha256} {f.size} {f.path}\n" for f in sorted(self.files, key=lambda f: f.path))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The manifest of all files below `folder`, except the manifest and hidden files."""
        relative = ((path, path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
        return cls(files=[ManifestEntry.of(path, name) for path, name in sorted(relative) if counts(name)])

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest in `folder`. Raises ManifestError if it is missing or cannot be parsed."""
        try:
            return cls.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            raise ManifestError(f"{folder.name}: no readable {MANIFEST}: {error}") from error

    @property
    def document(self) -> str:
        """The content of the manifest's file."""
        return json.dumps(self.dump() | {"digest": self.digest}, indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, as its last file: a folder with a manifest is complete."""
        staged = folder / f".{MANIFEST}"
        staged.write_text(self.document)
        staged.rename(folder / MANIFEST)

    def check(self, digest: Digest | None) -> None:
        """Check the digest, if given. Raises ManifestError."""
        if digest is not None and digest != self.digest:
            raise ManifestError(
                f"digest is {self.digest}, expected {digest}: the folder has changed, or is the wrong one"
            )

    def verify(self, folder: Path, digest: Digest | None = None, skip: Collection[str] = ()) -> None:
        """Check the digest, if given, and all files of `folder` but those with a suffix in `skip`.

        Raises ManifestError.
        """
        self.check(digest)
        for entry in self.files:
            path = folder / entry.path
            if path.suffix in skip:
                continue
            if not path.is_file():
                raise ManifestError(f"{entry.path} is missing")
            if path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
                raise ManifestError(f"content of {entry.path} does not match the manifest")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex. The file is read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def counts(path: str) -> bool:
    """Whether a file at `path` in a folder is a part of its content: not the manifest, and not hidden.

    >>> counts("part/model.safetensors"), counts("manifest.json"), counts(".cache/model.safetensors")
    (True, False, False)
    """
    return path != MANIFEST and not any(part.startswith(".") for part in path.split("/"))
