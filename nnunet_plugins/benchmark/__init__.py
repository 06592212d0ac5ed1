"""Benchmark of many trainers on many datasets: from one suite file to tables that can be checked.

A *suite* file says what is compared. A *run* is one training of it: a fold of a trainer on a dataset. Each run goes
through four *steps*: plan, preprocess, train, validate. A *job* is a process that does one step; it may need several
*attempts*, and leaves a *receipt* at its end. The *driver* is the process of ``benchmark run``, which starts the jobs.
The cases that a run predicts are of two *parts*: the fold's validation cases and the test set.

``suite`` reads the file, ``runs`` lists the runs and their files, ``survey`` finds out which are done, ``checks`` looks
for what is missing before anything starts. ``jobs`` does the work, ``report`` makes tables, figures and a page of it.
"""
