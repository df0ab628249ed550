"""The proxy before any OpenAI-compatible engine: metrics, drift counters, feedback, readiness, drain."""
