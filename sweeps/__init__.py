"""Sweeps: many runs, planned as tables or grids, run here or on a cluster."""
