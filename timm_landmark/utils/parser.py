"""The parser of every verb: its complaints are one line."""

import argparse
from typing import NoReturn

from timm_landmark.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaint is a UserError: one line, no usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """Raises the complaint.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; see `{self.prog} --help`")
