"""Drift: counters in, evidence out."""
