"""Benchmarks on procedural landmarks, of which everything is known."""
