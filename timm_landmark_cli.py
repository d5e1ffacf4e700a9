"""Entry point of the ``timm-landmark`` command; imports neither torch nor the models.

Importing this module before ``timm_landmark`` keeps the package from registering its models at import. The docstring
of ``timm_landmark`` explains why, and who registers them instead.
"""


def main() -> int:
    """Runs ``timm-landmark VERB ...`` with the process's arguments and returns the exit code."""
    from timm_landmark.cli import main

    return main()
