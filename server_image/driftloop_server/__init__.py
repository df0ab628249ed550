"""The server image: fetch copies the model into the pod, the engine generates, the proxy faces the clients."""
