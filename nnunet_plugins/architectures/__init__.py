"""Networks. All return plain logits, or with ``deep_supervision``, if they have it, a tuple that begins with them."""

from nnunet_plugins.architectures.casnet import CASNet
from nnunet_plugins.architectures.condseg import ConDSeg, Net0
from nnunet_plugins.architectures.dcffsnet import DCFFSNet
from nnunet_plugins.architectures.dcsnet import DCSNet
from nnunet_plugins.architectures.dlkunet import DLKUNet

__all__ = ["CASNet", "ConDSeg", "DCFFSNet", "DCSNet", "DLKUNet", "Net0"]
