"""The door of a service that is scaled to zero: it holds requests until a serving pod is ready."""
