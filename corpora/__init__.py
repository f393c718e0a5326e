"""Corpora: one module per corpus, and what all corpora share (wavs, transcripts, labels, tables of faults)."""
