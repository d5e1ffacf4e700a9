"""timm-landmark: ResNeAt and Inception-Res-PA as first-class timm models.

``import timm_landmark`` registers ``resneat50``, ``resneat101`` and ``inception_resnet_pa`` with timm; after that
``timm.create_model`` knows them. Nothing else happens at import.
"""

import sys

__version__ = "0.1.0"


def register_models() -> None:
    """Makes the models known to timm; calling it again does nothing."""
    from timm_landmark.models import inception_resnet_pa, resneat  # noqa: F401


if "timm_landmark_cli" not in sys.modules:  # the command line registers them when a verb needs them
    register_models()
