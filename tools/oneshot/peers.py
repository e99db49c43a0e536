"""Torch-Pruning and onnxsim at a budget of MACs or parameters, one shot, each with recovery at its best.

    python tools/oneshot/peers.py MODEL.onnx CALIBRATION.npz PEER CRITERION [--ratio R] [--by macs] -o pruned.onnx

Both see the calibration inputs only, no labels. Where a peer has settings for recovery, that is kept of which the
outputs on these inputs diverge least from the original's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it runs by itself
from oneshot import by_onnxsim, by_torch_pruning
from oneshot.by_onnxsim import onnxsim
from oneshot.by_torch_pruning import torch_pruning
from oneshot.reaching import BY, PeerError, cost

__all__ = ["CRITERIA", "PEERS", "PeerError", "onnxsim", "torch_pruning"]

PEERS = {"torch_pruning": torch_pruning, "onnxsim": onnxsim}
CRITERIA = {"torch_pruning": by_torch_pruning.CRITERIA, "onnxsim": by_onnxsim.CRITERIA}
"""What each takes as criterion: how channels are ranked, and together with which others."""


def main() -> int:
    """Prune one file by one peer."""
    parser = argparse.ArgumentParser(description="Prune a file by a peer.")
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path, help=".npz with the model's inputs by name")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("criterion", help=f"one of {CRITERIA}")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--by", choices=BY, default="macs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.calibration, allow_pickle=False) as arrays:
        calibration = dict(arrays)
    try:
        pruned = PEERS[args.peer](args.model, calibration, args.ratio, args.by, args.criterion, args.seed)
    except PeerError as error:
        print(f"{args.peer} {args.criterion}: {error}", file=sys.stderr)
        return 1
    onnx.save(pruned, args.output)
    print(f"{args.output}: {cost(pruned, args.by) / cost(args.model, args.by):.3f} of the {args.by}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
