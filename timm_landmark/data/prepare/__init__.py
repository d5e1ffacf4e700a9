"""Preparing a data set from Google Landmarks or from your own photos."""
