"""Procedural landmarks: a data set that is rendered instead of downloaded."""
