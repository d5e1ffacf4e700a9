"""Run folders: their files, checkpoints and models."""
