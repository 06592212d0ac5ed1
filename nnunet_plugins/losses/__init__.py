"""Losses of a network's outputs and nnU-Net's targets; all compute in float32 and honour the ignore label."""

from nnunet_plugins.losses.condseg import ConDSegLoss
from nnunet_plugins.losses.dcffsnet import ConnectivityLoss, DCFFSNetLoss
from nnunet_plugins.losses.dcsnet import DCSNetLoss
from nnunet_plugins.losses.dlkunet import DiceCrossEntropyLoss
from nnunet_plugins.losses.drgo import DRGOLoss

__all__ = ["ConDSegLoss", "ConnectivityLoss", "DCFFSNetLoss", "DCSNetLoss", "DRGOLoss", "DiceCrossEntropyLoss"]
