"""FineTuneJob: prepare the data, plan, train, create a ModelVersion."""
