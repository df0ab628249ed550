"""The training itself in one process: torch, and never Ray."""
