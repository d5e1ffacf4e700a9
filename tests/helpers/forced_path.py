"""Registers the models and forces their attention units onto the path named by FORCED_PATH in this process."""

import os

import timm_landmark  # noqa: F401
from timm_landmark.layers.attention_path import force_path

forced = force_path(os.environ["FORCED_PATH"])  # kept, because garbage collection would end the context
forced.__enter__()
