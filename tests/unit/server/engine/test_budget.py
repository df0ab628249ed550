"""The cache's bound follows from the memory that is there."""

from pathlib import Path

import pytest

from driftloop_server.engine.budget import cache_cells, cell_bytes, free_memory, longest_context
from driftloop_server.engine.model import load


def test_a_tokens_bytes_are_those_of_keys_and_values(model_folder: Path) -> None:
    assert cell_bytes(load(model_folder).model) == 2 * 2 * 2 * 16 * 4  # two kinds, layers, heads, of 16 float32


def test_the_bound_is_every_place_at_full_length_or_what_memory_allows() -> None:
    assert cache_cells(1 << 40, 128, 8, 4096) == 8 * 5120
    assert cache_cells(1_000_000, 100, 8, 4096) == 7000


@pytest.mark.parametrize(
    ("cells", "wanted", "context"),
    [(40_000, 4096, 4096), (5119, 4096, 2048), (2000, 300, 300), (640, 4096, 512), (639, 4096, 0), (639, 16, 0)],
)
def test_the_context_is_what_fits_alone(cells: int, wanted: int, context: int) -> None:
    assert longest_context(cells, wanted) == context


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       8000 kB\nMemAvailable:   4000 kB\nHugePages_Total:       0\n")
    return path


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def test_free_memory_is_the_machines_without_a_limit(meminfo: Path, tmp_path: Path) -> None:
    assert free_memory(meminfo, tmp_path / "none") == 4000 << 10
    no_limit = write(tmp_path / "v2", memory_max="max\n", memory_current="9\n", memory_stat="")
    assert free_memory(meminfo, no_limit) == 4000 << 10


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_within_the_containers_limit(meminfo: Path, tmp_path: Path, version: int) -> None:
    """The page cache, full of the weights' file, is not used memory."""
    if version == 2:
        files = {"memory_max": "2000000", "memory_current": "1500000", "memory_stat": "anon 1\ninactive_file 1000000\n"}
        write(tmp_path / "cgroup", **files)
    else:
        stat = "inactive_file 7\ntotal_inactive_file 1000000\n"
        files = {"memory_limit_in_bytes": "2000000", "memory_usage_in_bytes": "1500000", "memory_stat": stat}
        write(tmp_path / "cgroup" / "memory", **files)
    assert free_memory(meminfo, tmp_path / "cgroup") == 1_500_000
