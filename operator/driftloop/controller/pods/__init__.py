"""Pods and Jobs: pure functions that build them from a task, and that read their outcome."""
