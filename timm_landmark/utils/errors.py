"""The error class for user errors."""

import traceback


class UserError(Exception):
    """An error that the user can fix; the command line prints its message as one line and exits with code 2.

    The message names the argument, its value and the remedy.
    """


def first_line(error: BaseException, width: int = 160) -> str:
    """The first line of an error's message, truncated to ``width`` characters; its type if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:width]


def without_traceback(error: UserError) -> UserError:
    """Removes the traceback that torch adds to the message of an error from a loader process.

    This also clears the frames of the traceback, and with them the data loaders, so that their processes end
    immediately. Otherwise they end seconds later, when the garbage collector runs.
    """
    traceback.clear_frames(error.__traceback__)
    return UserError(str(error).rsplit("UserError: ", 1)[-1].strip())
