"""Access to the API server: client, caches, writes of single objects, Events."""
