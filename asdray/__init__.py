"""Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection."""

__version__ = "0.1.0"
