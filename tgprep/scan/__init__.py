"""Find the videos of a folder or store, and the class, group and subset of each."""
