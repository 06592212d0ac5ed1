"""Thin virtual environments on top of the packages of the environment that runs the tests.

They see these packages through a path file, which extends ``sys.path`` but executes none of the ``.pth`` files there:
their own ``.pth`` files alone run at the start of their interpreter.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


class Environment:
    """A new virtual environment without pip (the tests' own pip installs into it)."""

    def __init__(self, root: Path):
        venv.create(root, symlinks=True)
        self.root = root
        self.python = root / "bin" / "python"
        (self.site_packages,) = root.glob("lib/python*/site-packages")

    def install(self, *arguments: str | Path) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *arguments)

    def pip(self, *arguments: str | Path) -> None:
        call(sys.executable, "-m", "pip", "--quiet", "--python", self.python, *arguments)

    def see_packages(self) -> None:
        """Make the packages of the running environment importable, after this environment's own."""
        (self.site_packages / "zzz_packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments: str | Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
        return call(self.python, *arguments, folder=self.root, **variables)

    def evaluate(self, expression: str, **variables: str | Path) -> str:
        """Value of an expression, printed by a fresh interpreter of this environment that must print nothing else."""
        result = self.run("-c", f"import os, sys; print({expression})", **variables)
        assert not result.stderr
        return result.stdout.strip()


def call(
    *command: str | Path, folder: Path | None = None, check: bool = True, **variables: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command with none of the variables of nnU-Net, of this package and of Python but those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(("NNUNET", "PYTHON"))}
    given = {name: str(value) for name, value in variables.items()}
    arguments = [str(part) for part in command]
    result = subprocess.run(
        arguments, cwd=folder, env=inherited | given, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0 or not check, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result
