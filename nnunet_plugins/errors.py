"""What the user can put right: one sentence with the value, what was expected and the remedy."""


class UserError(ValueError):
    """Bad input or a bad environment. The command line prints the sentence alone and exits with 1."""
