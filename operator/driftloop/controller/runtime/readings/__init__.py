"""Metrics from Prometheus and from pods, and everything else that an observer may read."""
