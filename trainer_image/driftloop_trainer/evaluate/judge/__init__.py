"""A judge: a model that compares the answers of two versions."""
