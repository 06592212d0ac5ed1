"""Plans with which a trainer fits a GPU, and what every trainer needs on the plans that are there.

Layers: the command line's :mod:`.command` and the benchmark call :mod:`.fitting`, which searches patch and batch with
:mod:`.patches` (nnU-Net's planner) and :mod:`.requirement` (the estimate); :mod:`.source` reads, :mod:`.plans_file`
writes.
"""
