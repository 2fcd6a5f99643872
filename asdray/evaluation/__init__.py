"""Anomaly scores and labels in, numbers and tables out."""

METRICS = ("s_auc", "t_auc", "s_pauc", "t_pauc", "smix_auc", "tmix_auc", "mix_auc", "mix_pauc")
"""The names of what `metrics` computes, for who needs no numpy."""
