"""Reports: the figures of one run, and the tables and plots of many."""
