"""Strong augmentation: drawn on the host, applied on the device."""
