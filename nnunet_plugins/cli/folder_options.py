"""Options of ``convert folder``, which describe a user's own files."""

import argparse
import re
from pathlib import Path


def add_folder_options(convert: argparse.ArgumentParser) -> None:
    """Add the options of ``convert`` that describe a user's own images and masks."""
    convert._negative_number_matcher = re.compile(r"^-\d+(\.\d+)?(=.*)?$")  # -1=ignore is no option
    group = convert.add_argument_group("only for 'folder'", "Patterns go in quotes; what * stands for pairs the files.")
    add = group.add_argument
    add("--images", nargs="+", metavar="PATTERN", help="of images, e.g. 'images/*.png'; one per channel")
    masks = "of masks, e.g. 'masks/*_mask.png'; several are united; liver='*_liver.png' for files of one class"
    add("--masks", nargs="+", metavar="PATTERN", help=masks)
    add("--merge-masks", action="store_true", help="unite all masks of an image that a pattern finds")
    add("--test-images", nargs="+", metavar="PATTERN", help="of images for testing, e.g. 'test/*.png'")
    add("--test-masks", nargs="+", metavar="PATTERN", help="of their masks, if there are any")
    missing = "images without a mask are background, or are left out; default: they are errors"
    add("--missing-masks", choices=("background", "skip"), help=missing)
    output = "new images (--test-images) for the models of dataset N, as N was converted, into this folder"
    add("-o", "--output", type=Path, metavar="FOLDER", help=output)
    add("--dataset-name", metavar="NAME", help="the Name in DatasetNNN_Name")
    add("--channels", nargs="+", metavar="NAME", help="e.g. CT; default: R G B, grey or image")
    label_map = (
        "e.g. 0=background 128=polyp -1=ignore, or colours, '#ff0000=polyp' '255,0,0=polyp'; default: two classes"
    )
    add("--label-map", nargs="+", metavar="VALUE=NAME", help=label_map)
    pages = "what several pages of a TIFF file are: slices of one volume, or images of their own"
    add("--pages", choices=("volume", "images"), help=pages)
