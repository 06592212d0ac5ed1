"""Trainers with suffixes to their names: ImageNet weights, early stopping, another length.

Any trainer can have them that nnU-Net finds, its own and those of other packages included.
"""

import contextlib
import io
from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import PRETRAINED
from nnunet_plugins.trainers.early_stopping import EarlyStopping
from nnunet_plugins.trainers.safe_training import SafeTraining


class Suffixes(NamedTuple):
    """The wishes behind a trainer's name, in the order in which they stand there."""

    pretrained: bool
    patience: int | None
    epochs: int | None
    iterations: int | None

    def attributes(self) -> dict[str, Any]:
        """Attributes of a trainer with these wishes; a fifth as many iterations validate, as in nnU-Net (250 to 50)."""
        wanted: dict[str, Any] = {
            "pretrained": self.pretrained or None,
            "supported_dimensions": (2,) if self.pretrained else None,
            "early_stopping_patience": self.patience,
            "num_epochs": self.epochs,
            "num_iterations_per_epoch": self.iterations,
            "num_val_iterations_per_epoch": self.iterations and -(-self.iterations // 5),
        }
        return {name: value for name, value in wanted.items() if value is not None}


def subclass_with(name: str, base: type, suffixes: Suffixes) -> type:
    """Make a subclass of one of this package's trainers; ImageNet's weights are of images, not of volumes.

    Raises:
        UserError: it cannot start from ImageNet weights, but shall.
    """
    if suffixes.pretrained:
        require_imagenet_encoder(name, base)
    about = {"__module__": __package__, "__doc__": f"{base.__name__}, otherwise trained."}
    return type(name, (base,), {**about, **suffixes.attributes()})


def trainer_of_others(name: str, base_name: str, suffixes: Suffixes) -> type:
    """Make a subclass of another package's trainer, whose numbers are attributes of its instances.

    nnU-Net's own names, such as ``nnUNetTrainer_5epochs``, never come here: nnU-Net looks at home first.

    Raises:
        AttributeError: nnU-Net finds no trainer of that name.
        UserError: the trainer cannot start from ImageNet weights, but shall.
    """
    if suffixes.pretrained and any(suffixes[1:]):  # the others may call a trainer so themselves
        base_name, suffixes = base_name + PRETRAINED, suffixes._replace(pretrained=False)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            base: Any = recursive_find_trainer_class_by_name(base_name)
        except RuntimeError as error:
            raise AttributeError(
                f"module {__package__!r} has no trainer {name!r}: there is no {base_name!r}"
            ) from error
    if suffixes.pretrained:
        require_imagenet_encoder(name, base)
    mixins = (SafeTraining,) if suffixes.patience is None else (SafeTraining, EarlyStopping)
    bases: tuple[Any, ...] = (*(mixin for mixin in mixins if not issubclass(base, mixin)), base)

    class Trainer(*bases):  # type: ignore[misc]
        def __init__(
            self,
            plans: dict,
            configuration: str,
            fold: int,
            dataset_json: dict,
            device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
        ):
            super().__init__(plans, configuration, fold, dataset_json, device)
            for attribute, value in suffixes.attributes().items():
                setattr(self, attribute, value)

    Trainer.__name__ = Trainer.__qualname__ = name
    Trainer.__module__ = __package__
    Trainer.__doc__ = f"{base_name}, otherwise trained."
    for attribute, value in suffixes.attributes().items():
        setattr(Trainer, attribute, value)  # for those who ask the class, before there is an instance
    return Trainer


def require_imagenet_encoder(name: str, base: type) -> None:
    """Refuse a name whose trainer has no encoder that could start from ImageNet weights.

    Raises:
        UserError: it has none.
    """
    reason = getattr(base, "not_pretrained_because", "it is no trainer of nnunet_plugins with an encoder from timm")
    if reason:
        raise UserError(f"{name}: {base.__name__} cannot start from ImageNet weights, for {reason}.")
