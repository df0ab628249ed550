"""FineTuneJob: prepare, plan, train, hand over a ModelVersion."""
