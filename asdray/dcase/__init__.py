"""DCASE Task 2 datasets: facts per year, file names, ground truth, formatting, synthesis."""
