"""How the detector's state changes when another version serves. Pure.

Only a version that has shown a gain on a target suite ends an alarm: its requests are then the new normal. Any other
version (promoted by hand, or trained for something else) is no better prepared for the shifted traffic than the
previous one. So the alarm is held, with its evidence and its baseline, until a version shows a gain. A held alarm is
not updated: each version's profile has its own bins, so the counts of one version can't be compared with the baseline
of another.

Without an alarm, the first requests of the next version become its baseline in any case.
"""

from driftloop.api.inferenceservice import DriftStatus
from driftloop.controller.drift.change import MAX_MESSAGE, sentence, shortened


def hand_over(status: DriftStatus, version: str, gained: bool) -> DriftStatus:
    """The state with which `version` is watched; `gained` says whether it has shown a gain on a target suite."""
    if status.version is None or (status.version == version and status.held_from is None):
        return status
    if gained:
        return DriftStatus(first_baseline=status.first_baseline)
    if not status.alarm:
        return status
    origin = status.held_from or status.version
    if origin == version:  # back to the version that the evidence is about
        return status.model_copy(update={"version": version, "held_from": None, "message": None})
    held = f"the alarm of {origin} is held: {version} has not shown a gain on a target suite"
    message = f"{shortened(sentence(status), MAX_MESSAGE - len(held) - 2)}; {held}"
    return status.model_copy(update={"version": version, "held_from": origin, "message": message})
