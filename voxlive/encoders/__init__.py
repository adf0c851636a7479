"""PCM to log-mel to audio embeddings."""
