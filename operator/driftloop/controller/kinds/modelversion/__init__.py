"""ModelVersion: evaluate it, and judge it by the gates."""
