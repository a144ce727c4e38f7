"""Where shards lie: local files, object stores with a cache, sequential streams."""
