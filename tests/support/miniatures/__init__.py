"""Miniatures of the published downloads: their folders, file names and formats, with few and small images.

``write(name, folder)`` writes one and returns what a conversion of it must give: the pixels that were drawn, or those
that scikit-image decodes from a JPEG.
"""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np

from support.miniatures import microscopy, photographs, scans
from support.miniatures.records import FACTS, NIFTI, PNG, Miniature, Sample

__all__ = ["FACTS", "NIFTI", "PNG", "WRITERS", "Miniature", "Sample", "write"]

WRITERS: dict[str, Callable[[Miniature, np.random.Generator], None]] = {
    "isic2018": photographs.write_isic2018,
    "isic2016": photographs.write_isic2016,
    "isic2017": photographs.write_isic2017,
    "dsb2018": microscopy.write_dsb2018,
    "monuseg": microscopy.write_monuseg,
    "kvasir_seg": photographs.write_kvasir_seg,
    "kvasir_sessile": photographs.write_kvasir_sessile,
    "kvasir_small": photographs.write_kvasir_small,
    "glas": microscopy.write_glas,
    "synapse": scans.write_synapse,
    "acdc": scans.write_acdc,
    "promise12": scans.write_promise12,
    "chase_db1": photographs.write_chase_db1,
    "lits17": scans.write_lits17,
    "brain_tumor": scans.write_brain_tumor,
    "kidney_stone": scans.write_kidney_stone,
}


def write(name: str, folder: Path) -> Miniature:
    """Write the download of a dataset into a new folder."""
    folder.mkdir(parents=True)
    miniature = Miniature(folder, FACTS[name])
    WRITERS[name](miniature, np.random.default_rng(crc32(name.encode())))
    return miniature
