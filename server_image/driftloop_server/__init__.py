"""Driftloop's server: fetch, engine, proxy."""
