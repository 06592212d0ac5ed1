"""Run the command line with ``python -m nnunet_plugins``."""

from nnunet_plugins.cli import main

if __name__ == "__main__":
    main()
