"""The error for problems that the user can solve."""


class UserError(ValueError):
    """Bad input or a bad environment, told in one sentence: the value, what was expected, and the remedy.

    The command line prints this sentence without a traceback and exits with 1.
    """
