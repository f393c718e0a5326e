"""Features: the model's inputs (log-mels, text embeddings, speech embeddings)."""
