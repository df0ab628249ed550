"""Writes files that other processes read at any time."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, for its owner's eyes only: readers find the old content or the new, and never a part.

    A cluster that already runs is started again by each process that uses it, while others read its kubeconfig.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as staged:
        staged.write(text)
    os.replace(staged.name, path)
