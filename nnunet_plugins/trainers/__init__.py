"""The table of trainers, and how a name becomes a class.

Importing this module is cheap; a trainer's own module is imported when its name is first asked for. Names are
``<name>[_pretrained][_earlyStop<N>][_<N>epochs][_<M>iterations]``, e.g. ``DCFFSNetTrainer_woDS_pretrained_100epochs``:
nnU-Net's way of naming trainings of other lengths, for any length, and for the trainers of nnU-Net and of others too,
so that they can be compared. Classes that the table or a suffix creates live in *this* module, so that they can be
pickled and are the same object however they are found.
"""

import importlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nnunet_plugins.compatibility import require_nnunet


class Variant(NamedTuple):
    """Row of the table: a trainer as a class of this package and the class attributes in which it differs from it."""

    name: str
    base: str
    """``<module of this folder>.<class>``"""
    varies: str
    """Difference from the paper's method, for ``nnunet-plugins list``."""
    overrides: Mapping[str, Any] = {}


DCFFSNET = "dcffsnet.DCFFSNetTrainer"
CONDSEG = "condseg.ConDSegTrainer"
CONDSEG_NET0 = "condseg.ConDSegNet0Trainer"
DLKUNET = "dlkunet.DLKUNetTrainer"
MEDFUSION = "medfusion_transnet.MedFusionTransNetTrainer"
CASNET = "medfusion_transnet.CASNetTrainer"
DRGO = "medfusion_transnet.DRGOTrainer"
DCSNET = "dcsnet.DCSNetTrainer"
TIMM_UNET = "timm_unet.TimmUNetTrainer"

# fmt: off
_ROWS = (
    Variant("DCFFSNetTrainer", DCFFSNET, "the paper's method, random initialisation"),
    Variant("DCFFSNetTrainer_woDS", DCFFSNET, "Table 2, w/o DS: no DSCRIM", {"network_kwargs": {"use_dscrim": False}}),
    Variant("DCFFSNetTrainer_woMSF", DCFFSNET, "Table 2, w/o MSF: no MSFFM", {"network_kwargs": {"use_msffm": False}}),
    Variant("DCFFSNetTrainer_woMSR", DCFFSNET, "Table 2, w/o MSR: no MSRCM", {"network_kwargs": {"use_msrcm": False}}),
    Variant("DCFFSNetTrainer_meanVote", DCFFSNET, "mean instead of maximum over the votes", {"voting": "mean"}),
    Variant("ConDSegTrainer", CONDSEG, "the paper's method: both stages in one training"),
    Variant("ConDSegTrainer_stage2", CONDSEG,
            "stage 2 alone, on the encoder of a stage-1 training ($NNUNET_PLUGINS_STAGE1)",
            {"pretrained": True, "stage_1_percent": 0, "initial_encoder": "stage 1",
             "not_pretrained_because": "its encoder comes from stage 1: let that be ConDSegNet0Trainer_pretrained"}),
    Variant("ConDSegTrainer_constantRate", CONDSEG, "the printed learning rates to the end", {"constant_rate": True}),
    Variant("ConDSegTrainer_oneStage", CONDSEG, "Table 3: the whole network from scratch",
            {"stage_1_percent": 0, "stage_2_encoder_lr": 1e-4}),
    Variant("ConDSegTrainer_woCR", CONDSEG, "Table 3: stage 1 without consistency reinforcement",
            {"consistency_reinforcement": False}),
    Variant("ConDSegTrainer_woSADecoder", CONDSEG, "Table 4: a decoder for the finest levels alone",
            {"network_kwargs": {"use_sa_decoder": False}}),
    Variant("ConDSegTrainer_baseline", CONDSEG, "Table 4: that, and no SID and CDFA",
            {"network_kwargs": {"use_contrast": False, "use_sa_decoder": False}}),
    Variant("ConDSegNet0Trainer", CONDSEG_NET0, "Table 3: Net0 alone, with consistency reinforcement"),
    Variant("ConDSegNet0Trainer_woCR", CONDSEG_NET0, "Table 3: Net0 alone, without it",
            {"consistency_reinforcement": False}),
    Variant("DLKUNetTrainer", DLKUNET, "the paper's method: size L, phase-based loss weights"),
    Variant("DLKUNetTrainer_ordinaryLoss", DLKUNET, "eq. 7: Dice and cross-entropy weigh the same",
            {"loss_schedule": "ordinary"}),
    Variant("DLKUNetTrainer_dynamicLoss", DLKUNET, "eq. 12-13: weights change in a sigmoid",
            {"loss_schedule": "dynamic"}),
    Variant("DLKUNetTrainer_dynamicLossACDC", DLKUNET, "the same the other way round, as the authors train on ACDC",
            {"loss_schedule": "dynamic_acdc"}),
    Variant("DLKUNetTrainer_dw5", DLKUNET, "Table 5, 5DW: depthwise kernels of 5",
            {"network_kwargs": {"depthwise_kernel": 5}}),
    Variant("DLKUNetTrainer_dw7", DLKUNET, "Table 5, 7DW: depthwise kernels of 7",
            {"network_kwargs": {"depthwise_kernel": 7}}),
    Variant("DLKUNetTrainer_lk37", DLKUNET, "Table 5, LKA1: large kernels of 3 and 7",
            {"network_kwargs": {"large_kernels": (3, 7)}}),
    Variant("DLKUNetTrainer_lk55", DLKUNET, "Table 5, LKA2: large kernels of 5 and 5",
            {"network_kwargs": {"large_kernels": (5, 5)}}),
    Variant("DLKUNetTrainer_C64", DLKUNET, "Figure 9: 64 channels", {"network_kwargs": {"base_channels": 64}}),
    Variant("DLKUNetTrainer_C128", DLKUNET, "Figure 9: 128 channels", {"network_kwargs": {"base_channels": 128}}),
    Variant("DLKUNetSTrainer", DLKUNET, "size S", {"network_kwargs": {"variant": "S"}}),
    Variant("DLKUNetSTrainer_C64", DLKUNET, "Figure 9: size S, 64 channels",
            {"network_kwargs": {"variant": "S", "base_channels": 64}}),
    Variant("DLKUNetSTrainer_C128", DLKUNET, "Figure 9: size S, 128 channels",
            {"network_kwargs": {"variant": "S", "base_channels": 128}}),
    Variant("DLKUNetMTrainer", DLKUNET, "size M", {"network_kwargs": {"variant": "M"}}),
    Variant("DLKUNetMTrainer_C64", DLKUNET, "Figure 9: size M, 64 channels",
            {"network_kwargs": {"variant": "M", "base_channels": 64}}),
    Variant("DLKUNetMTrainer_C128", DLKUNET, "Figure 9: size M, 128 channels",
            {"network_kwargs": {"variant": "M", "base_channels": 128}}),
    Variant("DLKUNetLTrainer", DLKUNET, "size L, the same as DLKUNetTrainer", {"network_kwargs": {"variant": "L"}}),
    Variant("MedFusionTransNetTrainer", MEDFUSION, "the paper's method: CASNet trained with DRGO"),
    Variant("MedFusionTransNetTrainer_woSkips", MEDFUSION, "Tables 3 and 4: a decoder that sees the bottleneck alone",
            {"network_kwargs": {"use_skips": False}}),
    Variant("MedFusionTransNetTrainer_woContext", MEDFUSION, "Tables 3 and 4: no contextual attention",
            {"network_kwargs": {"use_contextual_attention": False}}),
    Variant("MedFusionTransNetTrainer_woBoundary", MEDFUSION, "Tables 3 and 4: no boundary refinement", {"beta": 0.0}),
    Variant("MedFusionTransNetTrainer_woSampling", MEDFUSION, "nnU-Net's sampling instead of that of regions",
            {"region_sampling": False}),
    Variant("MedFusionTransNetTrainer_DS", MEDFUSION, "with nnU-Net's deep supervision",
            {"enable_deep_supervision": True}),
    Variant("CASNetTrainer", CASNET, "the network alone, with Dice and cross-entropy"),
    Variant("DRGOTrainer", DRGO, "DRGO alone, with nnU-Net's own network"),
    Variant("DCSNetTrainer", DCSNET, "the paper's method, random initialisation"),
    Variant("DCSNetTrainer_earlyStop", DCSNET, "ends after 20 epochs without a better validation loss",
            {"early_stopping_patience": 20}),
    Variant("DCSNetTrainer_woDGHC", DCSNET, "Table 5: segments the whole image instead of boxes",
            {"network_kwargs": {"use_dghc": False}}),
    Variant("DCSNetTrainer_woMSFA", DCSNET, "Table 5: a plain encoder and decoder in the boxes",
            {"network_kwargs": {"use_msfa": False}}),
    Variant("DCSNetTrainer_baseline", DCSNET, "Table 5: both",
            {"network_kwargs": {"use_dghc": False, "use_msfa": False}}),
    Variant("DCSNetTrainer_base32", DCSNET, "Table 6: boxes of 32 x 32", {"network_kwargs": {"base_size": 32}}),
    Variant("DCSNetTrainer_base128", DCSNET, "Table 6: boxes of 128 x 128", {"network_kwargs": {"base_size": 128}}),
    Variant("TimmUNetTrainer", TIMM_UNET, "a reference: a plain U-Net on a ResNet-34, trained as nnU-Net's own"),
)
# fmt: on

TRAINERS: dict[str, Variant] = {row.name: row for row in _ROWS}

MAIN_TRAINERS = (
    "DCFFSNetTrainer",
    "ConDSegTrainer",
    "DLKUNetTrainer",
    "MedFusionTransNetTrainer",
    "CASNetTrainer",
    "DRGOTrainer",
    "DCSNetTrainer",
)
"""The trainers of the papers' methods, and of the two of which MedFusion-TransNet is made."""
HALVES = ("CASNetTrainer", "DRGOTrainer")
"""CASNet and DRGO, each half of MedFusion-TransNet."""

PRETRAINED = "_pretrained"
"""Suffix of trainers whose encoder starts from ImageNet weights."""

_NAME = re.compile(
    r"(?P<base>\w+?)"
    rf"(?P<pretrained>{PRETRAINED})?"
    r"(?:_earlyStop(?P<patience>[1-9]\d{0,8}))?"
    r"(?:_(?P<epochs>1epoch|(?!1epochs)[1-9]\d{0,8}epochs))?"
    r"(?:_(?P<iterations>[1-9]\d{0,8})iterations)?",
    re.ASCII,
)


def find_trainer(name: str) -> type[Any]:
    """Return the class of a name: one of ours, or, of another package's trainer, a subclass with the suffixes' wishes.

    Raises:
        AttributeError: no trainer here has this name (nnU-Net then goes on looking elsewhere).
        UserError: the trainer has no encoder for ImageNet weights, or our trainers cannot run in the nnU-Net of this
            environment.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match["base"] not in TRAINERS and not has_suffixes(name)):
        raise AttributeError(f"module {__name__!r} has no trainer {name!r}")
    if name in globals():
        return globals()[name]
    require_nnunet()
    trainer = class_of(TRAINERS[name]) if name in TRAINERS else class_with_suffixes(name, match)
    return globals().setdefault(name, trainer)


def class_of(row: Variant) -> type[Any]:
    """Return the class of a row of the table: the one that it names, or a subclass with the row's attributes."""
    module, class_name = row.base.split(".")
    base = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    unknown = [attribute for attribute in row.overrides if not hasattr(base, attribute)]
    assert not unknown, f"{row.name} sets {', '.join(unknown)}, which {class_name} does not have"
    if not row.overrides:
        return base
    return type(row.name, (base,), {"__doc__": f"{row.name}: {row.varies}.", **row.overrides})


def class_with_suffixes(name: str, match: re.Match[str]) -> type[Any]:
    """Return a subclass of the trainer that ``match``, of the name's parts, has as its base."""
    suffixes = importlib.import_module(f"{__name__}.suffixes")
    patience, epochs, iterations = (
        int(match[part].removesuffix("s").removesuffix("epoch")) if match[part] else None
        for part in ("patience", "epochs", "iterations")
    )
    wanted = suffixes.Suffixes(bool(match["pretrained"]), patience, epochs, iterations)
    if match["base"] in TRAINERS:
        return suffixes.subclass_with(name, find_trainer(match["base"]), wanted)
    return suffixes.trainer_of_others(name, match["base"], wanted)


def has_suffixes(name: str) -> bool:
    """Whether the name is a trainer's name without suffixes, followed by one or more in their order."""
    match = _NAME.fullmatch(name)
    return bool(match and name != match["base"] and not has_suffixes(match["base"]))


def table_name(name: str) -> str | None:
    """Name of the table's row behind a trainer's name with or without suffixes; None if it is none of ours."""
    match = _NAME.fullmatch(name)
    base = name if name in TRAINERS else match and match["base"]
    return base if base in TRAINERS else None


def __getattr__(name: str) -> type[Any]:
    return find_trainer(name)
