"""Published segmentation methods as nnU-Net v2 trainers.

This module imports nothing, because Python imports it at every start (see ``_startup``): torch and nnU-Net are imported
by the modules that need them.
"""

__version__ = "0.4.0"
