"""The pruning of onnxsim, on the file itself."""

import contextlib
from pathlib import Path
from typing import Any

import onnx

from oneshot.reaching import BATCH, Arrays, closest, divergence, in_one_line, nearest, parts, scores

SCOPES = ("local", "global")
CRITERIA = tuple(f"{norm}-{scope}" for norm in ("l2", "l1", "wanda") for scope in SCOPES)
FUSIONS = ("fuse_matmul_add_bias_into_gemm", "fuse_matmul_add_bias_into_gemm_batched", "fuse_qkv")
"""What it does to linear layers by default; its own pruning then finds none of them."""
PASSES = 6  # of bias correction at most
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # of the ridge regression, whose default is 1e-2


@in_one_line()
def onnxsim(
    model_path: Path, calibration: Arrays, ratio: float, by: str, criterion: str, seed: int
) -> onnx.ModelProto:
    """The file simplified by onnxsim (which folds BatchNorm), its channels and heads pruned at one sparsity.

    `wanda` multiplies L2 of the weights and of the activations. Its ridge regression (of linear layers only) and its
    correction of biases follow, see `recovered`. PeerError where it fails.
    """
    from onnxsim import simplify
    from onnxsim.pruning import (
        apply_attention_head_pruning,
        apply_attention_head_wanda_pruning,
        apply_structured_pruning,
        apply_structured_wanda_pruning,
    )

    name, scope = criterion.split("-")
    batches = parts(calibration, BATCH)
    whole, _ = simplify(onnx.load(model_path), skipped_optimizers=list(FUSIONS))

    def prune(knob: float) -> onnx.ModelProto:
        model: Any = copied(whole)
        if name == "wanda":
            model = apply_structured_wanda_pruning(
                model, batches, sparsity=knob, global_sparsity=scope == "global", seed=seed
            )
            return copied(apply_attention_head_wanda_pruning(model, batches, sparsity=knob, seed=seed))
        model = apply_structured_pruning(model, knob, name, global_sparsity=scope == "global")
        return copied(apply_attention_head_pruning(model, knob, name))

    model, _ = nearest(model_path, prune, ratio, by)
    return recovered(whole, model, calibration)


def recovered(whole: onnx.ModelProto, pruned: onnx.ModelProto, inputs: Arrays) -> onnx.ModelProto:
    """The pruned model after ridge regression and passes of bias correction, each where it brings outputs nearer.

    One pass corrects every layer for its error before the others were corrected, and so too much; passes repeated
    agree. At most six; they end where two did not help.
    """
    from onnxsim import simplify
    from onnxsim.bias_correction import correct_bias
    from onnxsim.finetune import apply_pruning_finetune

    batches, teacher = parts(inputs, BATCH), scores(whole, inputs)
    choices = [pruned]
    for penalty in PENALTIES:
        with contextlib.suppress(Exception):  # what fails is no choice
            choices.append(apply_pruning_finetune(whole, copied(pruned), batches, reg_param=penalty))
    best, distance = closest(choices, teacher, inputs)
    current, worse = best, 0
    for _ in range(PASSES):
        try:
            current = correct_bias(whole, copied(current), batches)
            current, _ = simplify(
                current, skipped_optimizers=list(FUSIONS)
            )  # the constants added go into the layers' own biases
            found = divergence(teacher, scores(current, inputs))
        except Exception:
            break
        worse = 0 if found < 0.98 * distance else worse + 1
        best, distance = (current, found) if found < distance else (best, distance)
        if worse == 2:
            break
    return best


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Another one like it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
