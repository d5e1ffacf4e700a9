"""Inference with trained models: evaluate and predict."""
