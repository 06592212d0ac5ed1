"""Extension of griffe that lets mkdocs read the docstrings' Sphinx roles and their section ``Example``."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([^`]+)`")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turn ``:class:`Name``` into code, and ``Example:`` into the plural that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = ROLE.sub(r"``\1``", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", text)

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        """Show every class once, in the module that defines it, and not again in the package that exports it."""
        mod.exports = None
