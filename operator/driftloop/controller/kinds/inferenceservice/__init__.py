"""InferenceService: revisions, canary, drift, retraining."""
