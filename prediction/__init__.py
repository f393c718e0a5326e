"""Prediction: trained models on recordings outside a corpus, from audio and segments to a table and a page."""

import training  # noqa: F401 (before torch: it sets environment variables that torch reads)
