"""What becomes of the detector's state when another version serves. Pure.

Only a version that has shown a gain on a target suite answers an alarm: what it is asked is then the new normal. Any
other one (promoted by hand, or trained for something else) knows no more of the shifted traffic than the one before,
so the alarm stands as it was, with its evidence and its baseline, until one has. It is not looked at anew meanwhile:
each version's profile has bins of its own, and counts of one say nothing beside the baseline of another.

Without an alarm the next version's first requests are its baseline, whatever it has shown.
"""

from driftloop.api.inferenceservice import DriftStatus


def hand_over(status: DriftStatus, version: str, gained: bool) -> DriftStatus:
    """The state that `version` is watched with; one of another version, or of none, starts anew."""
    if status.version is None or (status.version == version and status.held_from is None):
        return status
    if gained:
        return DriftStatus(first_baseline=status.first_baseline)
    if status.version == version or not status.alarm:
        return status
    risen = status.held_from or status.version
    if risen == version:  # back to the version that the evidence is about
        return status.model_copy(update={"version": version, "held_from": None, "message": None})
    message = f"the alarm of {risen} stands: {version} has shown no gain on a target suite"
    return status.model_copy(update={"version": version, "held_from": risen, "message": message})
