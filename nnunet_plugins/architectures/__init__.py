"""Networks of the published methods, and a plain U-Net to compare them with.

All return logits; those that take ``deep_supervision`` then return a tuple that begins with the logits.
"""

from nnunet_plugins.architectures.casnet import CASNet
from nnunet_plugins.architectures.condseg import ConDSeg, Net0
from nnunet_plugins.architectures.dcffsnet import DCFFSNet
from nnunet_plugins.architectures.dcsnet import DCSNet
from nnunet_plugins.architectures.dlkunet import DLKUNet
from nnunet_plugins.architectures.timm_unet import TimmUNet

__all__ = ["CASNet", "ConDSeg", "DCFFSNet", "DCSNet", "DLKUNet", "Net0", "TimmUNet"]
