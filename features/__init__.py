"""Features: the model's inputs of an utterance (log-mels and sentence embeddings), computed once per corpus."""
