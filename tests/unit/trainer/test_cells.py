"""The plan's table claims no cell that these tests don't compare with plain training."""

from driftloop.controller.kinds.finetunejob.cells import CELLS, Cell, is_exact
from unit.trainer.cellcases import cell_of, preference_cell_of
from unit.trainer.preference_run import CASES as PREFERENCE
from unit.trainer.test_cell_exactness import CASES as REST
from unit.trainer.test_cell_exactness import TESTED
from unit.trainer.test_float8_exactness import CASES as FLOAT8
from unit.trainer.test_float8_exactness import COMMON, in_float8

FLOAT8_CELLS = {cell_of(COMMON | case | {"model": in_float8(case)}) for case in FLOAT8.values()}
PROVEN = (
    TESTED | FLOAT8_CELLS | {cell_of(case) for case in REST.values()} | {*map(preference_cell_of, PREFERENCE.values())}
)


def test_each_claim_has_a_case() -> None:
    assert sorted(str(cell) for cell in CELLS - PROVEN) == []


def test_the_case_for_a_cell_is_one_of_that_cell() -> None:
    assert all(str(cell_of(case)) == name for name, case in REST.items())


def test_what_is_tested_is_claimed() -> None:
    """All but a restriction of the adapter to some modules, and float8 that is not compiled, which no job has."""
    left_out = {
        cell
        for cell in PROVEN
        if cell is not None and not is_exact(cell) and " on " not in cell.adapter and cell.float8 <= cell.compiled
    }
    assert left_out == set()
    assert not is_exact(Cell("bloom", frozenset()))
