"""Anomaly scores and labels in, numbers and tables out."""
