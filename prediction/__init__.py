"""Prediction: trained models on recordings outside a corpus, from segments and audio to a table and a page."""

import training  # noqa: F401 (before torch, which reads the environment variables that it sets)
