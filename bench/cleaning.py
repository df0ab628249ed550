"""The CPU time of the default cleaning steps and the fence, and the rows that they keep, for growing numbers of rows.

    PYTHONPATH=operator:trainer_image python bench/cleaning.py

Prints, for three kinds of rows, CPU time per row relative to that for the fewest rows, and how many rows are kept:
messages in a common instruction of 2,500 characters; sentences that differ only in a number; messages without either.
"""

import argparse
import time
from collections.abc import Callable
from random import Random

from driftloop.api.finetunejob import DEFAULT_STEPS
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.divide import divide
from driftloop_trainer.prepare.steps import clean

STARTS, ENDS = "bcdfghklmnprstvw", ("ane", "ost", "ill", "ard", "uck", "eem")


def words(seed: int, count: int) -> str:
    """Random words for a seed."""
    random = Random(seed)  # noqa: S311 - no secret
    return " ".join(random.choice(STARTS) + random.choice(ENDS) for _ in range(count))


INSTRUCTION = words(0, 520)[:2500]


def templated(number: int) -> str:
    """A message in the gap of the common instruction."""
    return f"{INSTRUCTION}\nMessage: {message(number)}\nAnswer with one label."


def numbered(number: int) -> str:
    """A sentence that differs from others only in a number."""
    return f"please tell me where my order number {number:06d} has been for so long"


def message(number: int) -> str:
    """Ten words, different for each row."""
    return words(number + 1, 10)


KINDS: dict[str, Callable[[int], str]] = {"instruction": templated, "number": numbered, "message": message}


def measured(text: Callable[[int], str], count: int) -> tuple[float, int]:
    """CPU seconds per row, and the number of rows kept on both sides."""
    rows = [Row.answering("data", "bench", text(number), f"label {number % 7}") for number in range(count)]
    began = time.process_time()
    kept, _ = clean(rows, DEFAULT_STEPS)
    divided = divide(kept, "bench", 10)
    return (time.process_time() - began) / count, len(divided.train) + len(divided.held_out)


def main() -> None:
    """Print one line per kind of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000, 8000])
    counts = parser.parse_args().rows
    for kind, text in KINDS.items():
        results = [measured(text, count) for count in counts]
        ratios = ", ".join(
            f"{count} rows: {seconds / results[0][0]:.2f} ({kept} kept)"
            for count, (seconds, kept) in zip(counts, results, strict=True)
        )
        print(f"{kind}: {results[0][0] * 1000:.2f} ms per row; {ratios}")


if __name__ == "__main__":
    main()
