"""The work of a suite: Snakemake's jobs, what they do, and the receipts that they leave."""
