"""Trainers in other lengths than their own, nnU-Net's and any other's that it finds included."""

import contextlib
import io

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name


def trainer_of_length(name: str, base_name: str, num_epochs: int | None, num_iterations: int | None) -> type:
    """Return another package's trainer with another number of epochs, or of steps in them.

    nnU-Net's own names, such as ``nnUNetTrainer_5epochs``, never come here: nnU-Net looks at home first.

    Raises:
        AttributeError: nnU-Net finds no trainer of that name.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            base = recursive_find_trainer_class_by_name(base_name)
        except RuntimeError as error:
            raise AttributeError(
                f"module {__package__!r} has no trainer {name!r}: there is no {base_name!r}"
            ) from error

    class Trainer(base):  # type: ignore[misc, valid-type]
        def __init__(
            self,
            plans: dict,
            configuration: str,
            fold: int,
            dataset_json: dict,
            device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
        ):
            super().__init__(plans, configuration, fold, dataset_json, device)
            for name, value in attributes_of_length(num_epochs, num_iterations).items():
                setattr(self, name, value)

    Trainer.__name__ = Trainer.__qualname__ = name
    Trainer.__module__ = __package__
    Trainer.__doc__ = f"{base_name} of another length."
    return Trainer


def attributes_of_length(num_epochs: int | None, num_iterations: int | None) -> dict[str, int]:
    """Attributes of a trainer of this length; a fifth as many iterations validate, as in nnU-Net (250 to 50)."""
    attributes = {} if num_epochs is None else {"num_epochs": num_epochs}
    if num_iterations is not None:
        attributes |= {
            "num_iterations_per_epoch": num_iterations,
            "num_val_iterations_per_epoch": -(-num_iterations // 5),
        }
    return attributes
