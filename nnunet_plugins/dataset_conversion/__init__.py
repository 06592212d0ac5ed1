"""From a download, as its owners publish it, to ``nnUNet_raw/DatasetNNN_Name``.

A converter is a declarative record (:mod:`.dataset`) in a file of its own under :mod:`.datasets`; reading, checking and
writing is the work of one shared writer (:mod:`.writer`).
"""
