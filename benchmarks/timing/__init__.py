"""Timing of models in the forms in which they are trained and deployed."""
