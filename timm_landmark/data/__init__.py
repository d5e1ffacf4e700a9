"""Preparing, reading and checking landmark data sets."""
