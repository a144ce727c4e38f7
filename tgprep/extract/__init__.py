"""Videos to a finished data set: plan, journal, workers, tables."""
