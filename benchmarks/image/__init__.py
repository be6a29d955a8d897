"""Size of the image; memory and start time of each component."""
