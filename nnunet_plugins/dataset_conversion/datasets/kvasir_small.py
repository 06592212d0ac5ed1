"""The small polyps of Kvasir-SEG (DCSNet)."""

from dataclasses import replace

from nnunet_plugins.dataset_conversion.datasets import kvasir_seg

DATASET = replace(
    kvasir_seg.DATASET,
    name="kvasir_small",
    dataset_id=518,
    folder_name="KvasirSmall",
    title="Kvasir-SEG: polyps of less than 1 % of the image",
    paper_validation=True,
    paper_split="drawn 7:1:2",
    paper_ratio=(7, 1, 2),
    max_foreground_fraction=0.01,  # sec. 4.1
)
