"""The one exception that a user is meant to read: a single line on stderr, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user can put right; the message says what and how, in one line."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: the first of its message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
