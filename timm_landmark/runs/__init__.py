"""The folder of a training run: its files, and the model in it."""
