"""Types and names that deciding and executing share: plans, kinds, conditions, labels."""
