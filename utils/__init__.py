"""Row 1: configuration, cameras, checkpoints, metrics, pictures, seeds. No networks, no loops."""
