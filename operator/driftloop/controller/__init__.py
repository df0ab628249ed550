"""The operator: observe, decide, execute."""
