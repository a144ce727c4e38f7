"""Clips from shards: order, clip geometry, reading, batches."""
