"""Trained models as files that predict without nnU-Net, see :mod:`nnunet_plugins.deployed`."""
