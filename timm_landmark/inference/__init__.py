"""A trained model answers: evaluate, predict."""
