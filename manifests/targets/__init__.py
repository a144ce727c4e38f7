"""Soft targets: probabilities of the classes for videos of a data set; import, read, measure, compare."""
