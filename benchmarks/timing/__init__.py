"""Timing and memory of models in several forms."""
