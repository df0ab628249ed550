"""Train: one sharded training run over the pods of a job, by Ray Train."""
