"""Script for an environment under test: print, as JSON, which classes nnU-Net finds for names of trainers.

``probe.py NAME...``; with ``--workers`` also whether the classes reach worker processes.
"""

import contextlib
import json
import multiprocessing
import os
import pickle
import sys


def arrive(trainers: list[type]) -> tuple[list[type], list[int | None], int]:
    """Return, from a worker process, the classes that arrived there."""
    return trainers, [getattr(trainer, "num_epochs", None) for trainer in trainers], os.getpid()


def travel(trainers: list[type]) -> dict[str, bool]:
    """Whether the classes go to a worker process and come back as themselves, for every way of starting one."""
    pools = {method: multiprocessing.get_context(method).Pool(1) for method in ("fork", "spawn", "forkserver")}
    pending = {method: pool.apply_async(arrive, (trainers,)) for method, pool in pools.items()}
    results = {method: result.get(timeout=200) for method, result in pending.items()}
    for pool in pools.values():
        pool.terminate()
    classes, epochs, here = arrive(trainers)
    return {
        method: all(map(lambda a, b: a is b, back, classes)) and epochs_there == epochs and process != here
        for method, (back, epochs_there, process) in results.items()
    }


def main(names: list[str], workers: bool) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as nnunet_finds

    import nnunet_plugins
    from nnunet_plugins import trainers

    with contextlib.redirect_stdout(sys.stderr):
        found = {name: nnunet_finds(name) for name in names}
        again = {name: nnunet_finds(name) for name in names[:2]}
    ours = {name: trainer for name, trainer in found.items() if trainer.__module__.startswith("nnunet_plugins.")}
    report = {
        "package": nnunet_plugins.__file__,
        "search path": os.environ["nnUNet_extTrainer"].split(os.pathsep),
        "found": {name: f"{trainer.__module__}.{trainer.__qualname__}" for name, trainer in found.items()},
        "found again as the same class": all(found[name] is trainer for name, trainer in again.items()),
        "imported as the same class": all(getattr(trainers, name) is trainer for name, trainer in ours.items()),
        "pickled": all(pickle.loads(pickle.dumps(trainer)) is trainer for trainer in ours.values()),
        "travelled": travel(list(ours.values())) if workers else None,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--workers"], "--workers" in sys.argv)
