"""What tests share: small scenes, runs and files that are made on the spot."""
