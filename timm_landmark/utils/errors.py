"""The one error that a user's mistake ends in."""

import traceback


class UserError(Exception):
    """A mistake that the user can repair; the command line prints it as one line and exits with 2.

    The message names the argument, its value and the remedy.
    """


def first_line(error: BaseException, width: int = 160) -> str:
    """The first line of an error's message, cut to ``width`` characters; its type's name where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:width]


def without_traceback(error: UserError) -> UserError:
    """The same error without the traceback that torch puts in front of it when it comes from a loading process.

    The frames it was raised through are cleared, and with them the loaders: their processes end now, not whenever the
    garbage collector finds them, which takes seconds.
    """
    traceback.clear_frames(error.__traceback__)
    return UserError(str(error).rsplit("UserError: ", 1)[-1].strip())
