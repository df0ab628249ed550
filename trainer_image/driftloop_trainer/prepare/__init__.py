"""Prepare: read, clean, divide and tokenise a job's data, and write a folder with a manifest."""
