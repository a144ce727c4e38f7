"""Label splits: drawn, imported, checked and stored beside a data set."""
