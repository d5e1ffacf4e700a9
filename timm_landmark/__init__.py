"""timm-landmark: ResNeAt and Inception-Res-PA as timm models.

``import timm_landmark`` registers ``resneat50``, ``resneat101`` and ``inception_resnet_pa`` with timm, so that
``timm.create_model`` can build them. Importing any module of the package does the same, because Python imports the
package first: no module has to register the models again.

There is one exception. Registering the models imports torch, which takes seconds, and ``timm-landmark --help`` or
``prepare`` do not need it. In a process started by the ``timm-landmark`` command, the package therefore does not
register the models at import; ``timm_landmark.cli.main`` does it before it runs a verb that needs them. The command's
entry point is the module ``timm_landmark_cli``, so its presence in ``sys.modules`` tells the two cases apart. It is
outside the package because importing it must not import the package first.
"""

import sys

__version__ = "0.1.0"


def register_models() -> None:
    """Registers the models with timm; calling it again has no effect."""
    from timm_landmark.models import inception_resnet_pa, resneat  # noqa: F401


if "timm_landmark_cli" not in sys.modules:
    register_models()
