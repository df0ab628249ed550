"""The words that deciding and executing share: plans, kinds, conditions, names. Nothing here does anything."""
