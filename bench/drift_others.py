"""Detectors of other libraries on the same streams. `drift.py` runs this in the environment that has them.

    python bench/drift_others.py FOLDER

Each stream in the folder has its values in NAME.npy, and in NAME.json the number of first values that define what is
normal, and the index of the first value after the shift. Prints, per stream and detector, whether it raised an alarm
before the shift, and the values after it until an alarm.

Each is used as its documentation shows, with its default settings; and once more with its significance level divided by
the number of checks in a month, so that by its own model a month has a false alarm with at most 1 %.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType
from frouros.detectors.concept_drift import PageHinkley
from frouros.detectors.data_drift import KSTest
from river.drift import ADWIN

MONTH = 72_000  # requests
BUDGET = 0.01
EVIDENTLY_WINDOW, FROUROS_WINDOW = 1_000, 500  # values
Values = np.ndarray
Alarms = Iterator[int]  # the number of values that were read when an alarm is up


def adwin(values: Values, delta: float) -> Alarms:
    """river's ADWIN, which takes values of any range; it checks every 32 values."""
    detector = ADWIN(delta=delta)
    for number, value in enumerate(values, start=1):
        detector.update(float(value))
        if detector.drift_detected:
            yield number


def page_hinkley(values: Values) -> Alarms:
    """frouros' Page-Hinkley, which is reset after an alarm, as its documentation shows."""
    detector = PageHinkley()
    for number, value in enumerate(values, start=1):
        detector.update(value=float(value))
        if detector.status["drift"]:
            yield number
            detector.reset()


def windows(values: Values, reference: int, size: int, is_drift: Callable[[Values], bool]) -> Alarms:
    """A test of each window after the reference."""
    for end in range(reference + size, len(values) + 1, size):
        if is_drift(values[end - size : end]):
            yield end


def ks(values: Values, reference: int, alpha: float) -> Alarms:
    """frouros' Kolmogorov-Smirnov test."""
    detector = KSTest()
    detector.fit(X=values[:reference])
    return windows(values, reference, FROUROS_WINDOW, lambda window: detector.compare(X=window)[0].p_value < alpha)


def evidently(values: Values, reference: int, method: str | None = None, threshold: float | None = None) -> Alarms:
    """The test with which Evidently's reports judge a column; without a method, the one that it chooses.

    For more than 1,000 rows that is the normed Wasserstein distance, above 0.1. A report takes a hundred times as long.
    """
    normal = pd.Series(values[:reference])

    def is_drift(window: Values) -> bool:
        current = pd.Series(window)
        test = get_stattest(normal, current, ColumnType.Numerical, method)
        return bool(test(normal, current, ColumnType.Numerical, threshold).drifted)

    return windows(values, reference, EVIDENTLY_WINDOW, is_drift)


def outcome(alarms: Alarms, shift: int) -> tuple[bool, int | None]:
    """Whether there is an alarm before the shift, and the values after it until the next one."""
    false_alarm = False
    for number in alarms:
        if number > shift:
            return false_alarm, number - shift
        false_alarm = True
    return false_alarm, None


def outcomes(values: Values, reference: int, shift: int) -> dict[str, tuple[bool, int | None]]:
    """The outcome of each detector on a stream."""
    checks = MONTH / EVIDENTLY_WINDOW
    detectors = {
        "river ADWIN, defaults (delta 0.002)": adwin(values, 0.002),
        "river ADWIN, delta for 1 % of months": adwin(values, BUDGET / (MONTH / 32)),
        "Evidently, defaults (Wasserstein, windows of 1,000)": evidently(values, reference),
        "Evidently, KS for 1 % of months": evidently(values, reference, method="ks", threshold=BUDGET / checks),
        "frouros KS (alpha 0.01, windows of 500)": ks(values, reference, 0.01),
        "frouros KS, alpha for 1 % of months": ks(values, reference, BUDGET / (MONTH / FROUROS_WINDOW)),
        "frouros Page-Hinkley, defaults": page_hinkley(values),
    }
    return {name: outcome(alarms, shift) for name, alarms in detectors.items()}


def main() -> None:
    found = []
    for file in sorted(Path(sys.argv[1]).glob("*.npy")):
        reference, shift = json.loads(file.with_suffix(".json").read_text())
        for name, result in outcomes(np.load(file), reference, shift).items():
            found.append([file.stem, name, *result])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
