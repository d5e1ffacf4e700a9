"""Procedural landmarks: a data set that is drawn, not downloaded."""
