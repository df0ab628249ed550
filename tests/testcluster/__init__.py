"""A Kubernetes cluster for tests and demos on one Linux machine: real nodes without Docker, or kind if it can run."""
