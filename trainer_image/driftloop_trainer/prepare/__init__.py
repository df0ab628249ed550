"""Prepare: read, clean, divide and tokenise a job's data, and leave a folder with a manifest."""
