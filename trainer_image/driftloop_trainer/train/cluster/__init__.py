"""The pods of a training and Ray: who does what where. Never torch."""
