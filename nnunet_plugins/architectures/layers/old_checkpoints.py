"""Refusal of weights from earlier versions of a network that would fit, and mean something else."""

from functools import partial
from typing import Any

from torch import nn

from nnunet_plugins.errors import UserError


def refuse_state_dicts_without(module: nn.Module, name: str, version: str) -> None:
    """Let a network refuse state dicts that lack an entry which those of later versions have.

    Args:
        module: network whose ``load_state_dict`` shall refuse them.
        name: name of the entry.
        version: last version of this package whose networks lack it.
    """
    module._register_load_state_dict_pre_hook(partial(refuse, name, version, type(module).__name__))


def refuse(name: str, version: str, network: str, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Raise if the state dict lacks an entry; torch calls this before it loads a state dict."""
    if prefix + name not in state_dict:
        raise UserError(
            f"The weights lack {name!r}, so that nnunet_plugins {version} or an earlier version trained them, whose "
            f"{network} computes something else with them: install nnunet_plugins {version} to use them, or train anew."
        )
