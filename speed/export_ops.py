"""Patches a second of exported networks in onnxruntime against torch on the CPU, with the same number of threads.

python speed/export_ops.py DCFFSNetTrainer DLKUNetTrainer --patch 256 256 --threads 1 --cpu-time

The networks, and nnU-Net's own, are those of step_time.py's plan. Each is exported, which proves that both compute the
same logits; then both take turns with one patch.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from step_time import Setting, add_setting, contestants, read_setting, seconds, spread
from tqdm import trange

from nnunet_plugins.deployed.model import INPUT, OUTPUT
from nnunet_plugins.export.formats import write_network

Times = tuple[list[float], list[float]]
"""Seconds of torch and of onnxruntime, one for each turn."""


@torch.inference_mode()
def take_turns(network: torch.nn.Module, image: torch.Tensor, path: Path, setting: Setting, steps: int) -> Times:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting would count as computing
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {INPUT: image.numpy()}
    turns = (lambda: network(image)), (lambda: session.run([OUTPUT], feed))
    for run in turns:
        run()
    times: Times = ([], [])
    for _ in trange(steps, desc=type(network).__name__):
        for kind, run in zip(times, turns, strict=True):
            kind.append(seconds(run, setting))
    return times


def measure(names: Sequence[str], setting: Setting, steps: int) -> dict[str, Times]:
    found: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as folder, contestants(names, setting) as all_of_them:
        for name, contestant in all_of_them.items():
            trainer, path = contestant.trainer, Path(folder, f"{name}.onnx")
            trainer.set_deep_supervision_enabled(False)
            network, image = trainer.network.eval(), contestant.batch["data"][:1]
            write_network("onnx", network, image.shape[1:], path)
            found[name] = take_turns(network, image, path, setting, steps)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainers", nargs="+", metavar="TRAINER", help="names as for nnUNetv2_train -tr")
    parser.add_argument("--steps", type=int, default=10, help="turns of each network")
    add_setting(parser)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    found = measure(arguments.trainers, setting, arguments.steps)
    print(f"{setting}, {arguments.steps} turns, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print("| network of | torch, patches / s | onnxruntime, patches / s | onnxruntime / torch |\n|---|---|---|---|")
    for name, times in found.items():
        ratios = [torchs / onnxruntimes for torchs, onnxruntimes in zip(*times, strict=True)]
        rates = (spread([1 / second for second in kind]) for kind in times)
        print(f"| {name} | {' | '.join(rates)} | {spread(ratios)} |")


if __name__ == "__main__":
    main()
