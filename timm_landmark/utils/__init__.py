"""Shared helpers, which import nothing else of the package."""
