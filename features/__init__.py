"""Features: the model's inputs of an utterance (log-mels, sentence embeddings, speech embeddings)."""
