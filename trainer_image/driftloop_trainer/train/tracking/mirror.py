"""A folder that a library writes, and its copy in storage."""

from pathlib import Path

from driftloop.contract.uris import join
from driftloop.podlib.storage import local_path, put_file


class Mirror:
    """Files that appear below `uri`: written there at once if it is mounted, else copied by `push`."""

    def __init__(self, uri: str, scratch: Path) -> None:
        self._uri = uri
        mounted = local_path(uri)
        self._mounted = mounted is not None
        self.folder = mounted or scratch
        self._pushed: dict[Path, int] = {}  # size of each file that was copied

    def push(self) -> None:
        """Copy the files that have grown since the last time. Raises StorageError."""
        if self._mounted:
            return
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()):
            size = path.stat().st_size
            if self._pushed.get(path) != size:
                put_file(path, join(self._uri, path.relative_to(self.folder).as_posix()))
                self._pushed[path] = size
