"""Videos to begin with: download an archive, or render a sample data set."""
