"""The schema of recipes and sweep files, trials and their signatures. Imports no torch, Ray or pandas."""
