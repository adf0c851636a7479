"""Model names to files on disk: resolve, probe, load."""
