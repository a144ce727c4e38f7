"""The run folder: config, checkpoints, journal, summary."""
