"""Metrics: each compares an answer with the item's completion and gives a score between 0 and 1."""
