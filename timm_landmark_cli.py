"""Entry point of the command line: starts without torch, so that verbs that only handle files are light.

``timm_landmark`` registers its models at import unless it is this module that imports it; ``timm_landmark.cli`` then
registers them for the verbs that need them.
"""


def main() -> int:
    """Runs ``timm-landmark VERB ...`` with the process's arguments; returns the exit code."""
    from timm_landmark.cli import main

    return main()
