"""The report of a sweep: one self-contained HTML file with leaderboard, figures, failures and provenance."""
