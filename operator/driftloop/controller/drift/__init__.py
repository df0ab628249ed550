"""Drift detection: from counters to evidence and alarms. Pure."""
