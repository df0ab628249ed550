"""The proxy in front of an OpenAI-compatible engine: metrics, drift counters, feedback, readiness, drain."""
