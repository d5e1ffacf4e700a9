"""timm-landmark: ResNeAt and Inception-Res-PA as first-class timm models.

``import timm_landmark`` registers ``resneat50``, ``resneat101`` and ``inception_resnet_pa`` with timm; after that
``timm.create_model`` knows them. Nothing else happens at import.
"""

from timm_landmark.models import inception_resnet_pa as _inception_resnet_pa  # noqa: F401  (registers)
from timm_landmark.models import resneat as _resneat  # noqa: F401  (registers)

__version__ = "0.1.0"
