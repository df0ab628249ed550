"""Pod templates: pure functions from a task to objects."""
