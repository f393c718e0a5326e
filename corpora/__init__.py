"""Corpora: raw folders (ETRI's tables, transcripts, wavs) and pre-processed ones, and the utterances that they hold."""
