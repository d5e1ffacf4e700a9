"""Benchmarks: the comparison of the seven networks, timings, and the report rendered from their results."""
