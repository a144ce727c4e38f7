"""Verify every promise of the format, and repair damaged shards."""
