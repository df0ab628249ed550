"""The main job: the whole loop on a real cluster, with a report. `make demo`."""
