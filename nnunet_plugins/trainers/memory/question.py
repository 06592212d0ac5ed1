"""One question about memory: JSON on standard input, the answer in the last line of standard output.

A training asks in a process of its own, so that neither its random numbers nor its processes on other GPUs notice.
"""

import json
import sys

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_plugins import _startup
from nnunet_plugins.trainers.memory.cache import cached_estimate


def answer() -> None:
    """Print the estimates without recomputation and with it."""
    _startup.extend()
    question = json.load(sys.stdin)
    trainer_class = recursive_find_trainer_class_by_name(question.pop("trainer"))
    print(json.dumps([cached_estimate(trainer_class, **question, recompute=recompute) for recompute in (False, True)]))
