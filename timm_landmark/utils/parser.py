"""The argument parser of all verbs, with one-line errors."""

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
