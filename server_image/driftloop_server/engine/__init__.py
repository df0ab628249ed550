"""The transformers engine: an OpenAI-compatible server on loopback that batches concurrent requests."""
