"""Audio embeddings to tokens, tokens to text and word times."""
