"""Many trainers, datasets, configurations and folds from one suite file to tables that can be checked.

``suite`` reads the file, ``runs`` says where nnU-Net keeps what belongs to a run, ``steps`` does the work of one job,
``engine`` hands the jobs to Snakemake. ``results`` gathers what they leave; ``statistics``, ``tables``, ``figures`` and
``page`` make the report of it.
"""
