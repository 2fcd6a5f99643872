"""Sweeps on Ray: Tune trains, tasks follow. The only package that imports ray, and only where it is used."""
