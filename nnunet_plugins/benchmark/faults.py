"""All that is wrong with a suite, told at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from nnunet_plugins.errors import UserError


class BadSuite(UserError):
    """Error in a suite file: the file, the key, its value, the expectation and the remedy."""


class Faults:
    """Sentences on what is wrong, collected and then raised together."""

    def __init__(self) -> None:
        self.found: dict[str, UserError] = {}

    def note(self, error: UserError) -> None:
        self.found.setdefault(str(error), error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note an error instead of letting it end the command."""
        try:
            yield
        except UserError as error:
            self.note(error)

    def end_command(self) -> None:
        """Raise what has been noted, if anything has: an error of the kind that was noted first.

        Raises:
            UserError: with one sentence, or with a list of them.
        """
        errors = list(self.found.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            lines = "".join(f"\n- {sentence}" for sentence in self.found)
            raise type(errors[0])(f"{len(errors)} things must be corrected:{lines}")
