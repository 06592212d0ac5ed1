"""Folders of the repository and of the imported package."""

from pathlib import Path

import nnunet_plugins

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(nnunet_plugins.__file__).parent
