"""Driftloop's trainer: prepare, train, evaluate."""
