"""Driftloop: a Kubernetes operator that closes the loop around a language model."""
