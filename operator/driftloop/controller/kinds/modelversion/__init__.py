"""ModelVersion: evaluate, judge by the gates."""
