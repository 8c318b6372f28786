"""The one exception that a user is meant to read: a single line on stderr, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user can put right; the message says what and how, in one line."""
