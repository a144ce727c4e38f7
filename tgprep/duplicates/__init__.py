"""Near-copies among the videos of a data set: found by hashes of a few frames, and verified by how the pictures move."""
