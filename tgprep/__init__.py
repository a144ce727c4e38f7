"""Videos in; shards of RGB and temporal-gradient frames, tables and label splits out."""
