"""Data sets to and from other layouts: loose frames, lists, tars of one split."""
