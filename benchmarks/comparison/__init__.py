"""What compares the runs of a set: collecting, intervals, verdicts."""
