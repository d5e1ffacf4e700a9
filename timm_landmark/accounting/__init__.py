"""What the models cost, and what the paper says of it."""
