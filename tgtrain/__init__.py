"""Shards and a label split in; checkpoints, scores and a report out."""
