"""Drift alerts: delivered by webhook, found by polling, recorded in a service's status."""
