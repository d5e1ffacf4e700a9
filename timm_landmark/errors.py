"""The one error that a user's mistake ends in."""


class UserError(Exception):
    """A mistake that the user can repair; the command line prints it as one line and exits with 2.

    The message names the argument, its value and the remedy.
    """
