"""Look at a data set: contents, previews, copies of the same file."""
