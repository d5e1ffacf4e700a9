"""Renders tables, sentences and figures from committed results."""
