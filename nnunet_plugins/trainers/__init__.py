"""The table of trainers, and how a name becomes a class.

Importing this module is cheap; a trainer's own module is imported when its name is first asked for. Names are
``<name>[_<N>epochs][_<M>iterations]``, e.g. ``DCFFSNetTrainer_woDS_100epochs``: nnU-Net's way of naming trainings of
other lengths, for any length, and for the trainers of nnU-Net and of others too, so that they can be compared. Classes
that the table or a length creates live in *this* module, so that they can be pickled and are the same object however
they are found.
"""

import importlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nnunet_plugins.compatibility import nnunet_problem
from nnunet_plugins.errors import UserError


class Variant(NamedTuple):
    """A row of the table: a class of this package and the class attributes in which the trainer differs from it."""

    module: str
    base: str
    varies: str
    overrides: Mapping[str, Any] = {}


def dlkunet_variant(varies: str, **network_kwargs: Any) -> Variant:
    """A DLKUNet that differs in its network."""
    return Variant("dlkunet", "DLKUNetTrainer", varies, {"network_kwargs": network_kwargs})


def condseg_variant(varies: str, **overrides: Any) -> Variant:
    return Variant("condseg", "ConDSegTrainer", varies, overrides)


def medfusion_variant(varies: str, **overrides: Any) -> Variant:
    return Variant("medfusion_transnet", "MedFusionTransNetTrainer", varies, overrides)


def dcsnet_variant(varies: str, **overrides: Any) -> Variant:
    return Variant("dcsnet", "DCSNetTrainer", varies, overrides)


TRAINERS: dict[str, Variant] = {
    "DCFFSNetTrainer": Variant("dcffsnet", "DCFFSNetTrainer", "the paper's method, random initialisation"),
    "DCFFSNetTrainer_pretrained": Variant(
        "dcffsnet", "DCFFSNetTrainer", "encoder starts from ImageNet weights", {"pretrained": True}
    ),
    "DCFFSNetTrainer_woDS": Variant(
        "dcffsnet", "DCFFSNetTrainer", "Table 2, w/o DS: no DSCRIM", {"network_kwargs": {"use_dscrim": False}}
    ),
    "DCFFSNetTrainer_woMSF": Variant(
        "dcffsnet", "DCFFSNetTrainer", "Table 2, w/o MSF: no MSFFM", {"network_kwargs": {"use_msffm": False}}
    ),
    "DCFFSNetTrainer_woMSR": Variant(
        "dcffsnet", "DCFFSNetTrainer", "Table 2, w/o MSR: no MSRCM", {"network_kwargs": {"use_msrcm": False}}
    ),
    "DCFFSNetTrainer_meanVote": Variant(
        "dcffsnet", "DCFFSNetTrainer", "mean instead of maximum over the votes", {"voting": "mean"}
    ),
    "ConDSegTrainer": Variant("condseg", "ConDSegTrainer", "the paper's method: both stages in one training"),
    "ConDSegTrainer_pretrained": condseg_variant("encoder starts from ImageNet weights", pretrained=True),
    "ConDSegTrainer_stage2": condseg_variant(
        "stage 2 alone, on the encoder of a stage-1 training ($NNUNET_PLUGINS_STAGE1)",
        pretrained=True,
        pretrained_by="stage 1",
        stage_1_percent=0,
    ),
    "ConDSegTrainer_oneStage": condseg_variant(
        "Table 3: the whole network from scratch", stage_1_percent=0, stage_2_encoder_lr=1e-4
    ),
    "ConDSegTrainer_woCR": condseg_variant(
        "Table 3: stage 1 without consistency reinforcement", consistency_reinforcement=False
    ),
    "ConDSegTrainer_woSADecoder": condseg_variant(
        "Table 4: a decoder for the finest levels alone", network_kwargs={"use_sa_decoder": False}
    ),
    "ConDSegTrainer_baseline": condseg_variant(
        "Table 4: that, and no SID and CDFA", network_kwargs={"use_contrast": False, "use_sa_decoder": False}
    ),
    "ConDSegNet0Trainer": Variant(
        "condseg", "ConDSegNet0Trainer", "Table 3: Net0 alone, with consistency reinforcement"
    ),
    "ConDSegNet0Trainer_woCR": Variant(
        "condseg", "ConDSegNet0Trainer", "Table 3: Net0 alone, without it", {"consistency_reinforcement": False}
    ),
    "DLKUNetTrainer": Variant("dlkunet", "DLKUNetTrainer", "the paper's method: size L, phase-based loss weights"),
    "DLKUNetTrainer_ordinaryLoss": Variant(
        "dlkunet", "DLKUNetTrainer", "eq. 7: Dice and cross-entropy weigh the same", {"loss_schedule": "ordinary"}
    ),
    "DLKUNetTrainer_dynamicLoss": Variant(
        "dlkunet", "DLKUNetTrainer", "eq. 12-13: weights change in a sigmoid", {"loss_schedule": "dynamic"}
    ),
    "DLKUNetTrainer_dw5": dlkunet_variant("Table 5, 5DW: depthwise kernels of 5", depthwise_kernel=5),
    "DLKUNetTrainer_dw7": dlkunet_variant("Table 5, 7DW: depthwise kernels of 7", depthwise_kernel=7),
    "DLKUNetTrainer_lk37": dlkunet_variant("Table 5, LKA1: large kernels of 3 and 7", large_kernels=(3, 7)),
    "DLKUNetTrainer_lk55": dlkunet_variant("Table 5, LKA2: large kernels of 5 and 5", large_kernels=(5, 5)),
    "DLKUNetTrainer_C64": dlkunet_variant("Figure 9: 64 channels", base_channels=64),
    "DLKUNetTrainer_C128": dlkunet_variant("Figure 9: 128 channels", base_channels=128),
    "DLKUNetSTrainer": dlkunet_variant("size S", variant="S"),
    "DLKUNetSTrainer_C64": dlkunet_variant("Figure 9: size S, 64 channels", variant="S", base_channels=64),
    "DLKUNetSTrainer_C128": dlkunet_variant("Figure 9: size S, 128 channels", variant="S", base_channels=128),
    "DLKUNetMTrainer": dlkunet_variant("size M", variant="M"),
    "DLKUNetMTrainer_C64": dlkunet_variant("Figure 9: size M, 64 channels", variant="M", base_channels=64),
    "DLKUNetMTrainer_C128": dlkunet_variant("Figure 9: size M, 128 channels", variant="M", base_channels=128),
    "DLKUNetLTrainer": dlkunet_variant("size L, the same as DLKUNetTrainer", variant="L"),
    "MedFusionTransNetTrainer": Variant(
        "medfusion_transnet", "MedFusionTransNetTrainer", "the paper's method: CASNet trained with DRGO"
    ),
    "MedFusionTransNetTrainer_woSkips": medfusion_variant(
        "Tables 3 and 4: a decoder that sees the bottleneck alone", network_kwargs={"use_skips": False}
    ),
    "MedFusionTransNetTrainer_woContext": medfusion_variant(
        "Tables 3 and 4: no contextual attention", network_kwargs={"use_contextual_attention": False}
    ),
    "MedFusionTransNetTrainer_woBoundary": medfusion_variant("Tables 3 and 4: no boundary refinement", beta=0.0),
    "MedFusionTransNetTrainer_woSampling": medfusion_variant(
        "nnU-Net's sampling instead of that of regions", region_sampling=False
    ),
    "MedFusionTransNetTrainer_DS": medfusion_variant("with nnU-Net's deep supervision", enable_deep_supervision=True),
    "CASNetTrainer": Variant("medfusion_transnet", "CASNetTrainer", "the network alone, with Dice and cross-entropy"),
    "DRGOTrainer": Variant("medfusion_transnet", "DRGOTrainer", "DRGO alone, with nnU-Net's own network"),
    "DCSNetTrainer": Variant("dcsnet", "DCSNetTrainer", "the paper's method, random initialisation"),
    "DCSNetTrainer_pretrained": dcsnet_variant("encoder starts from ImageNet weights", pretrained=True),
    "DCSNetTrainer_earlyStop": dcsnet_variant(
        "ends after 20 epochs without a better validation loss", early_stopping_patience=20
    ),
    "DCSNetTrainer_woDGHC": dcsnet_variant(
        "Table 5: segments the whole image instead of boxes", network_kwargs={"use_dghc": False}
    ),
    "DCSNetTrainer_woMSFA": dcsnet_variant(
        "Table 5: a plain encoder and decoder in the boxes", network_kwargs={"use_msfa": False}
    ),
    "DCSNetTrainer_baseline": dcsnet_variant("Table 5: both", network_kwargs={"use_dghc": False, "use_msfa": False}),
    "DCSNetTrainer_base32": dcsnet_variant("Table 6: boxes of 32 x 32", network_kwargs={"base_size": 32}),
    "DCSNetTrainer_base128": dcsnet_variant("Table 6: boxes of 128 x 128", network_kwargs={"base_size": 128}),
}

_NAME = re.compile(
    r"(?P<base>\w+?)"
    r"(?:_(?P<epochs>1epoch|(?!1epochs)[1-9]\d{0,8}epochs))?"
    r"(?:_(?P<iterations>[1-9]\d{0,8})iterations)?",
    re.ASCII,
)


def find_trainer(name: str) -> type[Any]:
    """The trainer class of a name: a :class:`~.base.PluginTrainer`, or another's trainer in another length.

    Raises:
        AttributeError: no trainer here has this name (nnU-Net then goes on looking elsewhere).
        UserError: the nnU-Net of this environment is none that our trainers can run in.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match["base"] not in TRAINERS and not asks_for_length(name)):
        raise AttributeError(f"module {__name__!r} has no trainer {name!r}")
    if name in globals():
        return globals()[name]
    if problem := nnunet_problem():
        raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")
    epochs = int(match["epochs"].removesuffix("s").removesuffix("epoch")) if match["epochs"] else None
    iterations = int(match["iterations"]) if match["iterations"] else None
    lengths = importlib.import_module(f"{__name__}.lengths")
    if match["base"] not in TRAINERS:
        return globals().setdefault(name, lengths.trainer_of_length(name, match["base"], epochs, iterations))
    variant = TRAINERS[match["base"]]
    base = getattr(importlib.import_module(f"{__name__}.{variant.module}"), variant.base)
    overrides: dict[str, Any] = dict(variant.overrides)
    if epochs:
        overrides["num_epochs"] = epochs
    if iterations:
        overrides["num_iterations_per_epoch"] = iterations
        overrides["num_val_iterations_per_epoch"] = lengths.validation_iterations(iterations)
    if overrides:
        base = type(name, (base,), {"__doc__": f"{name}: {variant.varies}.", **overrides})
    globals()[name] = base
    return base


def asks_for_length(name: str) -> bool:
    """Whether the name is another one with a length, which that one has not."""
    match = _NAME.fullmatch(name)
    return bool(match and (match["epochs"] or match["iterations"]) and not asks_for_length(match["base"]))


def __getattr__(name: str) -> type[Any]:
    return find_trainer(name)
