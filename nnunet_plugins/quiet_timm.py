"""timm, imported without the warnings of torch about what timm does at its import.

Nobody who trains can do anything about them. Whatever lets nnU-Net search for a trainer imports this module before: the
search imports timm too.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
    import timm
    import timm.layers

__all__ = ["timm"]
