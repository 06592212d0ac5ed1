"""Building blocks that more than one network or loss uses."""
