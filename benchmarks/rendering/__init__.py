"""Tables and figures from committed results."""
