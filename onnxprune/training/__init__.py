"""Training of gates and weights together; importing this does not import torch, `train` does.

Code map: settings.py what is asked and given back, data.py and images.py samples (numpy), budget.py how
gates are held to the ratio (numpy), batches.py samples as tensors, tasks.py losses and metrics, latents.py
the gates of a torch module, loop.py the run, run_folder.py what it leaves on disk.
"""

from collections.abc import Mapping
from typing import Any

import onnx

from onnxprune.training.budget import Costs
from onnxprune.training.data import Data
from onnxprune.training.settings import Outcome, Progress, Report, Settings

__all__ = ["Costs", "Data", "Outcome", "Progress", "Report", "Settings", "train"]


def train(
    gated: onnx.ModelProto,
    costs: Costs,
    data: Data,
    settings: Settings,
    *,
    validation: Data | None = None,
    teacher: onnx.ModelProto | None = None,
    progress: Report | None = None,
    context: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Outcome:
    """Train the gates and weights of a gated model towards `settings.ratio`.

    Metrics are taken on `validation`, or on the share `settings.validation` of `data`. `teacher` is the
    original model (default: `gated` with all gates open). `progress` is called every
    `settings.report_every` steps. With `settings.run_dir` the run leaves checkpoints there, beside
    `context` (plain JSON of the caller's), and `resume` continues from the last one. Ctrl-C and SIGTERM
    write one and raise TrainingError, saying so.
    """
    from onnxprune.training.loop import run

    return run(
        gated, costs, data, settings,
        validation=validation, teacher=teacher, progress=progress, context=context, resume=resume,
    )  # fmt: skip
