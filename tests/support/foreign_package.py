"""A stand-in for another package that extends nnU-Net, in a folder of its own."""

from pathlib import Path

FILES = {
    "__init__.py": "",
    "blocks.py": "from torch import nn\n\nNORM = nn.InstanceNorm2d\n",
    "trainers.py": '''
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from their_package.blocks import NORM


class TheirTrainer(nnUNetTrainer):
    """Numbers in the constructor, as nnU-Net's own trainers have them, and a network of their package's parts."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-3
        self.num_epochs = 400

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        from torch import nn

        class Network(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), NORM(4), nn.Conv2d(4, classes, 1))

            def forward(self, x):
                return self.layers(x)

        return Network(num_input_channels, num_output_channels)

    def set_deep_supervision_enabled(self, enabled):
        pass

    def _get_deep_supervision_scales(self):
        return None

    def _build_loss(self):
        self.enable_deep_supervision = False
        return super()._build_loss()


class TheirTrainer_slow(TheirTrainer):
    pass
''',
}


def write_foreign_package(folder: Path) -> Path:
    """Write it below a folder, which is to be listed in ``nnUNet_extTrainer``."""
    package = folder / "their_package"
    package.mkdir(parents=True)
    for name, text in FILES.items():
        (package / name).write_text(text)
    return folder
