"""The whole schema of recipes and sweeps, and the signatures; imports no torch, no ray, no pandas."""
