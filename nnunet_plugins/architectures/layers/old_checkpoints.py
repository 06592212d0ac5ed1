"""Refusal of state dicts that older versions of a network have left."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from nnunet_plugins.errors import UserError


def refuse_state_dicts_without(module: nn.Module, name: str, version: str) -> None:
    """Let ``load_state_dict`` refuse, in one sentence, weights that an older version of a module has left.

    Args:
        module: part of a network, at whatever place.
        name: parameter or buffer of the module that its older version had not.
        version: the last version of this package without it.
    """
    refuse = partial(refuse_without, name=name, module=type(module).__name__, version=version)
    module._register_load_state_dict_pre_hook(refuse)  # public from torch 2.5 on


def refuse_without(
    state_dict: Mapping[str, Tensor], prefix: str, *_: Any, name: str, module: str, version: str
) -> None:
    """Raise if a state dict to be loaded, strictly or not, has other weights of a module, but not the named one."""
    if prefix + name in state_dict or not any(key.startswith(prefix) for key in state_dict):
        return
    raise UserError(
        f"the checkpoint has no {prefix + name!r}: it was trained by nnunet_plugins {version}, whose {module} is "
        "another; use that version for it, or train again with this one."
    )
