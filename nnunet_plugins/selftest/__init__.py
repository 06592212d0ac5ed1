"""Self-test of a machine: every main trainer trains and predicts on generated data, measured and judged.

``command`` prepares the data and gives each trainer a process of its own, so that the crash of one does not end the
others; ``trial`` is what happens in such a process; ``report`` judges the records and prints the table.
"""
