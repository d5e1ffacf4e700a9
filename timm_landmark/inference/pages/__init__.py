"""Self-contained HTML pages: the gallery of ``predict`` and the page of ``evaluate``."""
