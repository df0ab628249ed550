"""The API server: client, caches, writes of one object, Events."""
