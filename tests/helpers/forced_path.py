"""Registers the models and holds their attention units to the form that FORCED_PATH names, for as long as this runs."""

import os

import timm_landmark  # noqa: F401
from timm_landmark.layers.attention_path import force_path

forced = force_path(os.environ["FORCED_PATH"])  # kept: a context that is collected ends
forced.__enter__()
