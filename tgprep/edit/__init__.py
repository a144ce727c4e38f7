"""Finished data sets changed without decoding: merged, videos dropped, videos relabelled. Shards keep their bytes."""
