"""Sweeps: many runs, planned as tables or grids, on this machine or a cluster."""
