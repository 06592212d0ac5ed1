"""Conversion of published downloads into nnU-Net datasets, ``nnUNet_raw/DatasetNNN_Name``.

Each converter is a declarative record (:mod:`.dataset`) in a file of its own under :mod:`.datasets`. One shared writer
(:mod:`.writer`) reads, checks and writes all of them:

1. :mod:`.source` finds files in the download, unpacked by :mod:`.archives`; :mod:`.pairing` makes cases of them.
2. :mod:`.cases` converts each case in a worker process, with :mod:`.readers`, :mod:`.pictures`, :mod:`.labels` and
   :mod:`.resizing`.
3. :mod:`.splits` divides the cases into training set, test set and folds, and keeps :mod:`.near_duplicates` together.
4. :mod:`.output` completes the dataset's folder, :mod:`.integrity` has nnU-Net check it, and :mod:`.summary` prints.
"""
