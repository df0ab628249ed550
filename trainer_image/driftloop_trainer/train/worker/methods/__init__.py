"""The training methods: how sequences become a loss. A file per method."""
