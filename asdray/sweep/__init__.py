"""Sweeps on Ray: Ray Tune trains, and Ray tasks extract, score and plot. No other package imports ray."""
