"""The module in which nnU-Net's search finds our trainers by name; it defines none itself.

nnU-Net imports every module of a folder in ``nnUNet_extTrainer`` under a top-level name and forgets it afterwards.
Classes defined here would exist twice and could not be pickled. So they live in ``nnunet_plugins.trainers``, which
imports a trainer's module only when its name is asked for: a trainer whose dependency is missing does not disturb the
others.

The Python of another environment, which may have inherited ``nnUNet_extTrainer``, finds nothing here and goes on.
"""

import sys
from importlib.util import find_spec

IS_INSTALLED = find_spec("nnunet_plugins") is not None

if IS_INSTALLED:
    from nnunet_plugins.errors import print_sentences

    print_sentences()
else:
    print(
        f"{__file__} is of an environment that this Python is not of: take it out of nnUNet_extTrainer, or install "
        "nnunet-plugins here",
        file=sys.stderr,
    )


def __getattr__(name: str) -> type:
    if name.startswith("__") or not IS_INSTALLED:
        raise AttributeError(name)
    from nnunet_plugins.nnunet_folders import refuse_unusable_folders
    from nnunet_plugins.trainers import find_trainer

    try:
        trainer = find_trainer(name)
    except AttributeError:
        from nnunet_plugins.trainers.near_names import refuse_near_name

        refuse_near_name(name)
        raise
    refuse_unusable_folders()  # before nnU-Net makes them
    return trainer
