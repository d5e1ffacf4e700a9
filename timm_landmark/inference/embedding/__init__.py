"""The vectors of ``embed`` and the file that they are written to."""
