"""Row 3: files to scenes, and scenes made from nothing. No networks."""
