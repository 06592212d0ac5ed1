"""Proves for main trainers and those with other outputs: two processes train one model, with batches of any size.

One of the processes trains on background alone.

That every parameter gets a gradient, without which DDP fails, ``test_loss`` proves for all.
"""

import json
import os
import socket
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from support.table import MAIN_NETWORKS, WITH_OTHER_OUTPUTS

EVEN, UNEVEN = 4, 5
JOBS = [
    (WITH_OTHER_OUTPUTS[0], EVEN, False),
    *((name, UNEVEN, False) for name in WITH_OTHER_OUTPUTS),
    *((name, UNEVEN, True) for name in MAIN_NETWORKS),
]
"""Trainer, batch size of both processes together, and whether the network recomputes."""


@pytest.fixture(scope="module")
def outcomes(planned, tmp_path_factory) -> Path:
    """All trainings in one pair of processes, each of which takes seconds to start."""
    from support import ddp_workers

    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(ddp_workers.train, (dict(os.environ), port, JOBS, folder), nprocs=2)
    return folder


@pytest.mark.parametrize(("name", "batch_size", "recompute"), JOBS, ids=lambda value: str(value))
def test_both_processes_hold_the_same_weights_after_training(outcomes, name, batch_size, recompute):
    files = [outcomes / f"{name}-{batch_size}-{recompute}-rank{rank}.json" for rank in range(2)]
    ranks = [json.loads(file.read_text()) for file in files]
    assert not [rank["error"] for rank in ranks if "error" in rank]
    assert [rank["local_batch"] for rank in ranks] == [batch_size - batch_size // 2, batch_size // 2]
    assert all(rank["equal"] and rank["finite"] and rank["recomputes"] == recompute for rank in ranks)


def test_both_processes_know_the_regions_that_either_has_seen(outcomes):
    for rank in range(2):
        regions, boundary, entropy = json.loads((outcomes / f"regions-rank{rank}.json").read_text())
        assert regions == [0, 1, 1]
        assert entropy == [1, 2, 11]
        assert boundary == pytest.approx([0.1, 0.2, 1.1])


def test_batch_dice_its_gradient_and_beta_equal_those_of_the_whole_batch(outcomes):
    for rank in range(2):
        assert json.loads((outcomes / f"dice-rank{rank}.json").read_text()) == {
            "beta": True,
            "loss": True,
            "gradient": True,
        }
