"""The documents, names and rules by which the operator and both images communicate."""
