"""Drift detection on logs and counters, without the operator: the parts of `driftloop detect`."""
