"""The operator: it observes, decides and executes."""
