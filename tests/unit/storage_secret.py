"""The credentials of a storage Secret in this process, as a pod has them."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

from testcluster.s3 import Server


@contextmanager
def credentials_of(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fsspec reads its own variable only when it is imported, and keeps its clients: both are renewed."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.config.set_conf_env(fsspec.config.conf)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    fsspec.config.conf.clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
