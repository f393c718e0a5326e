"""Corpora: raw folders (annotation tables, transcripts, wavs), pre-processed folders, and their utterances."""
