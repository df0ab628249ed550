"""Evaluate: ask a served model every item of the suites, check its API, and write the evidence."""
