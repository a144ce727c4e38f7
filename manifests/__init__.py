"""What the extractor and the trainer agree on: records, the shard contract, tables, splits and lists."""
