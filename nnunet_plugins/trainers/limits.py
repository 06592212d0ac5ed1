"""Configurations that a trainer cannot train."""

from typing import ClassVar

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_plugins.errors import UserError


def refuse_unknown_configuration(plans: dict, configuration: str) -> None:
    """Raise before anything is written if the plans have no such configuration.

    Raises:
        UserError: they have others.
    """
    if configuration not in plans["configurations"]:
        raise UserError(
            f"Configuration {configuration} is not in the plans {plans['plans_name']} of {plans['dataset_name']}, "
            f"which have {', '.join(plans['configurations'])}: train one of these (nnU-Net plans 3d_lowres and "
            "3d_cascade_fullres for large images alone, and volumes for datasets of volumes)."
        )


class Limits:
    """Mixin: limits of a trainer's configurations as class attributes, and the refusal of those beyond them."""

    supported_dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    smallest_patch: ClassVar[int] = 4
    """Voxels that a patch must have along each axis: nnU-Net's augmentation blurs with 3 voxels' reflection at the
    border, of which none is the border itself. The networks take any size."""
    fewest_stages: ClassVar[int] = 1
    """Stages that a plan must have, for networks that follow it."""

    @classmethod
    def refuse_unsupported_dimensions(cls, plans: dict, configuration: str) -> None:
        """Raise before anything is written if the method does not exist for the configuration's dimensions."""
        manager = PlansManager(plans)

        def dimensions(name: str) -> int:
            return len(manager.get_configuration(name).patch_size)

        if dimensions(configuration) not in cls.supported_dimensions:
            offered = " or ".join(f"{d}D" for d in cls.supported_dimensions)
            fitting = [name for name in plans["configurations"] if dimensions(name) in cls.supported_dimensions]
            remedy = f"train {' or '.join(fitting)} instead" if fitting else "use another trainer"
            without = next(base for base in cls.__mro__ if not getattr(base, "pretrained", False))
            if dimensions(configuration) in getattr(without, "supported_dimensions", ()) and without is not cls:
                remedy += ", or leave out _pretrained, for the weights of ImageNet are of images"
            raise UserError(
                f"{cls.__name__} works in {offered} only, but configuration {configuration} is "
                f"{dimensions(configuration)}D: {remedy}."
            )

    @classmethod
    def refuse_small_patches(cls, plans: dict, configuration: str) -> None:
        """Raise before anything is written if no training step can be taken with the configuration's patches."""
        plan = PlansManager(plans).get_configuration(configuration)
        patch = " x ".join(map(str, plan.patch_size))
        planned = f"{cls.__name__}: configuration {configuration} has patches of {patch} voxels"
        if min(plan.patch_size) < cls.smallest_patch:
            raise UserError(
                f"{planned}, but nnU-Net's augmentation needs {cls.smallest_patch} or more along each axis: choose a "
                "configuration with such patches, or turn flat volumes so that their thin axis is the first (z), and "
                "train 2d."
            )
        if cls.fewest_stages > 1 and (stages := len(plan.pool_op_kernel_sizes)) < cls.fewest_stages:
            raise UserError(
                f"{planned} and a plan of {stages} stage, but the network needs {cls.fewest_stages}: plan with larger "
                "patches, of 8 voxels or more along an axis."
            )
