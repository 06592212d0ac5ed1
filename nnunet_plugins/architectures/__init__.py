"""Networks of the published methods.

All return logits; those that take ``deep_supervision`` then return a tuple that begins with the logits.
"""

from nnunet_plugins.architectures.casnet import CASNet
from nnunet_plugins.architectures.condseg import ConDSeg, Net0
from nnunet_plugins.architectures.dcffsnet import DCFFSNet
from nnunet_plugins.architectures.dcsnet import DCSNet
from nnunet_plugins.architectures.dlkunet import DLKUNet

__all__ = ["CASNet", "ConDSeg", "DCFFSNet", "DCSNet", "DLKUNet", "Net0"]
