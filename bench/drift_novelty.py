"""What the signal `novelty` costs, and how far new intents move it beside surprisal.

    PYTHONPATH=operator:bench python bench/drift_novelty.py --data FOLDER [--seeds 5]

Of banking77 (train.csv in FOLDER), 26 of 77 intents are new. The profile is made of 2,000 requests with the others.
Prints medians over the seeds: the shift of the mean score of new intents in standard deviations of the reference, that
of other requests with known intents, milliseconds of a CPU per request, seconds of the fit, and bytes of the profile.
"""

import argparse
import json
import random
import time
from pathlib import Path
from statistics import fmean, median, stdev

from intents import read_rows

from driftloop.contract.names import NOVELTY
from driftloop.contract.text import row_key
from driftloop.contract.textstats import build_profile, counts_words, parse_profile
from driftloop.podlib.novelty import fitted, parse_novelty

NEW_INTENTS, PROFILE_TEXTS = 26, 2_000


def measured(rows: list[tuple[str, str]], seed: int) -> dict[str, float]:
    """The figures of one choice of new intents."""
    chooser = random.Random(seed)  # noqa: S311 - a seeded order
    new = set(chooser.sample(sorted({intent for _, intent in rows}), NEW_INTENTS))
    known = [text for text, intent in rows if intent not in new]
    fresh = [text for text, intent in rows if intent in new]
    chooser.shuffle(known)
    trained, live = known[:PROFILE_TEXTS], known[PROFILE_TEXTS:]
    began = time.process_time()
    document = json.dumps({NOVELTY: fitted(trained)})
    fit = time.process_time() - began
    novelty, profile = parse_novelty(json.loads(document)), parse_profile(build_profile(trained))
    assert novelty is not None
    scored = [text for text in trained if not counts_words(row_key(text))]
    began = time.process_time()
    values = [novelty.score(text) for text in fresh]
    per_request = (time.process_time() - began) / len(fresh)
    reference = [novelty.score(text) for text in scored]
    usual = [profile.scores(text)["surprisal"] for text in scored]
    return {
        "novelty of new intents, sd": _shift(values, reference),
        "novelty of known intents, sd": _shift([novelty.score(text) for text in live], reference),
        "surprisal of new intents, sd": _shift([profile.scores(text)["surprisal"] for text in fresh], usual),
        "ms per request": 1000 * per_request,
        "fit, s": fit,
        "bytes": len(document),
    }


def _shift(values: list[float], reference: list[float]) -> float:
    return (fmean(values) - fmean(reference)) / stdev(reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77's train.csv")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = read_rows(arguments.data / "train.csv")
    found = [measured(rows, seed) for seed in range(arguments.seeds)]
    for name in found[0]:
        values = [figures[name] for figures in found]
        print(f"{name}: {median(values):.3g} ({min(values):.3g} to {max(values):.3g})")


if __name__ == "__main__":
    main()
