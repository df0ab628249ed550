"""Numbers from Prometheus and from pods, and what an observer may read."""
