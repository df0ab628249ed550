"""A verdict about a model without a cluster: the processes of an evaluation's pods on this machine, and its gates."""
