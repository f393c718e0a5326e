"""Corpora: raw folders (annotation tables, transcripts, wavs), preprocessed folders, and their utterances."""
