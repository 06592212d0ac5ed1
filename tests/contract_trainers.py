"""Which trainers the contract suite runs over."""

from nnunet_plugins.trainers import TRAINERS

MAIN_TRAINERS = [name for name, variant in TRAINERS.items() if not variant.overrides]
"""The trainers of the papers, without their variants."""
