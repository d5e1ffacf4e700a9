"""The one error that a user's mistake ends in."""


class UserError(Exception):
    """A mistake that the user can repair; the command line prints it as one line and exits with 2.

    The message names the argument, its value and the remedy.
    """


def without_traceback(error: UserError) -> UserError:
    """The same error without what a loading process of torch puts in front of it: its traceback."""
    return UserError(str(error).rsplit("UserError: ", 1)[-1].strip())
