"""Prediction: a trained model on one's own recordings, from segments and sound to a table and a page."""
