"""`make demo`: runs the whole loop on a real cluster and writes a report."""
