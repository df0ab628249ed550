"""Reads users' files into rows and items, for prepare and evaluate."""
