"""Metrics of predictions and features; they need numpy, not torch."""
