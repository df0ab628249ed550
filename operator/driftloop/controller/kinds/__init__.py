"""The three custom resources: what to observe for each, and the pure function that decides what to do."""
