"""Training of gates and weights together; importing this does not import torch, `train` does.

Code map, in the data's way:
    settings.py      what is asked, told on the way, and given back
    data.py          `--data` from wherever it lies, free of torch: arrays.py, folders.py, tables.py (Parquet),
                     shards.py (tar), functions.py; images.py: decoding, preprocessing.py: pixels as inputs
    samples.py       what all of these give: columns and labels that are read by row numbers
    budget.py        what may stay open, and how latents are held to it (numpy); balance.py: under several limits;
                     repair.py: from latents to counts
    gating.py        the gates' side of a run; latents.py, masks.py: in the torch module
    batches.py       samples as tensors, by workers; augmentation.py, mixing.py; processes.py: one process or many
    tasks.py         losses and metrics; segmentation.py, scores.py; own_task.py and labels.py: the user's own;
                     distillation.py, features.py: the original as the teacher; task_choice.py: which a run is for
    student.py       the module that trains; shrinking.py: without its closed channels after the freeze
    loop.py          the run; stepping.py: a step of the weights; evaluate.py: metrics and statistics
                     optimizer.py, schedule.py, average.py, clock.py, interrupts.py
    teaching.py      a pruned model after the original, without labels or gates: onnxprune.distilled;
                     muon.py: its steps, side_by_side.py: parts of a batch on threads, folding.py: norms in weights
    unfolding.py     BatchNorm for models it was folded away from, while they train
    reporting.py     what a run tells; run_folder.py: what it leaves on disk
    verb.py          `onnxprune.train`, from file to file
"""

from collections.abc import Mapping
from typing import Any

import onnx

from onnxprune.training.budget import Costs
from onnxprune.training.data import Data
from onnxprune.training.settings import Outcome, Progress, Ranker, Report, Settings

__all__ = ["Costs", "Data", "Outcome", "Progress", "Report", "Settings", "train"]


def train(
    gated: onnx.ModelProto,
    costs: Costs,
    data: Data,
    settings: Settings,
    *,
    validation: Data | None = None,
    teacher: onnx.ModelProto | None = None,
    ranking: Ranker | None = None,
    progress: Report | None = None,
    context: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Outcome:
    """Train the gates and weights of a gated model towards `settings.ratio`.

    Metrics are taken on `validation`, or on the share `settings.validation` of `data`. `teacher` is the
    original model (default: `gated` with all gates open). `ranking` gives the importance of each gate, in the order of
    `costs`, from the samples that are trained on (default: by the gradients of the loss). `progress` is called every
    `settings.report_every` steps. With `settings.run_dir` the run leaves checkpoints there, beside
    `context` (plain JSON of the caller's), and `resume` continues from the last one. Ctrl-C and SIGTERM
    write one and raise TrainingError, saying so.
    """
    from onnxprune.training.loop import run

    return run(
        gated, costs, data, settings,
        validation=validation, teacher=teacher, ranking=ranking, progress=progress, context=context, resume=resume,
    )  # fmt: skip
