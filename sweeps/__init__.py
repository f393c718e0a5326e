"""Sweeps: many runs, planned as tables or grids, made here or on a cluster."""
