"""Building blocks of the networks, and modules of a paper that are files of their own."""
