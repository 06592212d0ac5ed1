"""Published segmentation methods as nnU-Net v2 trainers.

Importing this package costs nothing: it is imported at every start of the interpreter (see ``_startup``), so torch and
nnU-Net are left to the modules that need them.
"""

__version__ = "0.1.0"
