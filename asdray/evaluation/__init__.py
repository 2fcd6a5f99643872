"""From anomaly scores and labels to metrics, tables, leaderboards and submissions."""

METRICS = ("s_auc", "t_auc", "s_pauc", "t_pauc", "smix_auc", "tmix_auc", "mix_auc", "mix_pauc")
"""Names of the metrics of a section, without an import of numpy; explained in `asdray.evaluation.metrics`."""
