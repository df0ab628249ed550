"""What the parts say to each other: the only ways they talk. Imports `driftloop.api` and nothing else of ours."""
