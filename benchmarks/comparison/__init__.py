"""Comparisons of training runs: collecting results, intervals, verdicts on the paper's claims."""
