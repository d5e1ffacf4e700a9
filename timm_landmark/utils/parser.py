"""The argument parser of all verbs, with one-line errors, and the check of the smallest values."""

import argparse
from difflib import get_close_matches
from typing import NoReturn

from timm_landmark.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ``UserError`` instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raises the error, with a suggestion for a misspelled option.

        Raises:
            UserError: Always.
        """
        _, _, option = message.partition("unrecognized arguments: ")  # argparse's wording
        if option.startswith("-"):
            close = get_close_matches(option.split()[0].partition("=")[0], self._option_string_actions, n=1)
            message = f"unknown option {option}" + (f" (did you mean {close[0]}?)" if close else "")
        raise UserError(f"{message}; see `{self.prog} --help`")


def check_least(options: argparse.Namespace, **least: int) -> None:
    """Checks the smallest values of options; one that was not given (None) passes.

    Args:
        options: The parsed options.
        **least: The smallest value of each option, by its name in ``options``.

    Raises:
        UserError: Naming the first option whose value is too small.
    """
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {bound}")
