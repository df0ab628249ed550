"""Training in bfloat16, sharded and split, has the loss curve of float32, as far as two orders of the rows agree."""

import json
from typing import Any

import numpy as np
import pytest

from driftloop_trainer.dataset import write_dataset
from unit.trainer.bfloat16_run import STEPS
from unit.trainer.ranks import run_script

pytestmark = [pytest.mark.timeout(2400), pytest.mark.long("exactness")]

KINDS: dict[str, dict[str, Any]] = {
    f"{model_type}, {name}": {"model_type": model_type, "tensor": tensor}
    for model_type in ("llama", "qwen3")
    for name, tensor in (("shards", 1), ("split", 2))
}
WAYS = {"float32": (3, False), "another order": (4, False), "bfloat16": (3, True)}


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The losses of each kind in each way. The rows count up from a random number, so that there is much to learn."""
    folder = tmp_path_factory.mktemp("bfloat16")
    generator = np.random.default_rng(0)
    rows = [np.arange(first, first + length) % 60 + 1 for first, length in generator.integers(4, 24, (400, 2))]
    ids = [row.tolist() for row in rows]
    write_dataset(folder, ids, ids, [[len(row)] for row in ids])
    cases = [
        kind | {"name": f"{name}, {way}", "seed": seed, "bf16": bf16}
        for name, kind in KINDS.items()
        for way, (seed, bf16) in WAYS.items()
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_script("bfloat16_run.py", folder, timeout=2300)
    found: dict[str, list[float]] = json.loads((folder / "losses.json").read_text())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_in_bfloat16_is_nearer_than_that_of_another_order_of_the_rows(
    losses: dict[str, list[float]], kind: str
) -> None:
    exact, other, rounded = (np.array(losses[f"{kind}, {way}"]) for way in WAYS)
    assert len(exact) == STEPS
    assert exact[-1] < exact[0] / 2, "nothing was learned, so the curves show nothing"
    band = np.abs(exact - other).mean()
    difference = np.abs(rounded - exact)
    assert 0 < difference.max() <= band, (difference.max(), band)
