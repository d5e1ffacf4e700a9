"""Shared helpers; nothing here imports the rest of the package."""
