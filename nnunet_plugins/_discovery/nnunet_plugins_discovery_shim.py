"""The only file that nnU-Net finds on its search path: it hands out trainers by name, and holds none.

nnU-Net imports every module of a folder in ``nnUNet_extTrainer`` under a top-level name and forgets it afterwards.
Classes defined here would exist twice and could not be pickled; so they live in ``nnunet_plugins.trainers``, are
imported only when one is asked for, and a trainer whose dependency is missing cannot disturb the others.
"""


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    from nnunet_plugins.trainers import find_trainer

    return find_trainer(name)
