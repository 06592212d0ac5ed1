"""The table of converters, one record for each published dataset."""

from nnunet_plugins.dataset_conversion.dataset import Dataset
from nnunet_plugins.dataset_conversion.datasets import (
    acdc,
    brain_tumor,
    chase_db1,
    dsb2018,
    folder,
    glas,
    isic2016,
    isic2017,
    isic2018,
    kidney_stone,
    kvasir_seg,
    kvasir_sessile,
    kvasir_small,
    lits17,
    monuseg,
    promise12,
    synapse,
)

CONVERTERS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET
    for module in (
        isic2018,
        isic2016,
        isic2017,
        dsb2018,
        monuseg,
        kvasir_seg,
        kvasir_sessile,
        kvasir_small,
        glas,
        synapse,
        acdc,
        promise12,
        chase_db1,
        lits17,
        brain_tumor,
        kidney_stone,
        folder,
    )
}
"""Records of all converters by name; the user's options complete the one of ``folder``."""
