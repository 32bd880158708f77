"""Figures, measured: medians of interleaved rounds on this machine, the load generator counted in."""
