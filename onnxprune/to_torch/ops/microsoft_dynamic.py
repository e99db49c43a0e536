"""Embeddings and recurrent layers of com.microsoft whose weights are quantised."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.ops.index import gather
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.microsoft_integer import unpacked
from onnxprune.to_torch.ops.microsoft_norm import embed_layer_normalization
from onnxprune.to_torch.ops.quantize import dequantize_linear, laid_out
from onnxprune.to_torch.ops.recurrence import Outputs
from onnxprune.to_torch.ops.recurrent import lstm
from onnxprune.to_torch.registry import converts


@converts("DynamicQuantizeLSTM", domain=DOMAIN, since=1)
def dynamic_quantize_lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial_h: Tensor | None,
    initial_c: Tensor | None,
    p: Tensor | None,
    w_scale: Fixed,
    w_zero: Fixed,
    r_scale: Fixed,
    r_zero: Fixed,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    input_forget: int = 0,
    n_outputs: int = 1,
) -> Outputs:
    """With the weights' real values [ways, input, 4 hidden]; input and states stay as they are, to train.

    onnxruntime rounds both to 8 bits in each step.
    """
    return lstm(
        x, _weights(w, w_scale, w_zero), _weights(r, r_scale, r_zero), b, lengths, initial_h, initial_c, p,
        hidden_size=hidden_size, direction=direction, activations=activations, clip=clip,
        activation_alpha=activation_alpha, activation_beta=activation_beta, input_forget=input_forget,
        n_outputs=n_outputs,
    )  # fmt: skip


def _weights(whole: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """[ways, 4 hidden, input], from one scale per direction or per column."""
    ways = whole.shape[0]
    scale, zero_point = (t.reshape(ways, 1, -1) for t in (scale, zero_point))
    return ((whole.to(scale.dtype) - zero_point.to(scale.dtype)) * scale).mT


@converts("QEmbedLayerNormalization", domain=DOMAIN, since=1)
def qembed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Tensor,
    position_embedding: Tensor,
    segment_embedding: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None,
    word_scale: Fixed,
    position_scale: Fixed,
    segment_scale: Fixed | None,
    gamma_scale: Fixed,
    beta_scale: Fixed,
    word_zero: Fixed,
    position_zero: Fixed,
    segment_zero: Fixed | None,
    gamma_zero: Fixed,
    beta_zero: Fixed,
    *,
    epsilon: float = 1e-12,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    segments = None
    if segment_embedding is not None and segment_scale is not None:
        segments = dequantize_linear(segment_embedding, segment_scale, segment_zero)
    return embed_layer_normalization(
        input_ids, segment_ids, dequantize_linear(word_embedding, word_scale, word_zero),
        dequantize_linear(position_embedding, position_scale, position_zero), segments,
        dequantize_linear(gamma, gamma_scale, gamma_zero), dequantize_linear(beta, beta_scale, beta_zero), mask,
        epsilon=epsilon, n_outputs=n_outputs,
    )  # fmt: skip


@converts("GatherBlockQuantized", domain=DOMAIN, since=1)
def gather_block_quantized(
    data: Tensor,
    indices: Tensor,
    scales: Fixed,
    zero_points: Fixed | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Tensor:
    """Entries of a table with a scale per block along `quantize_axis`; bytes may pack several along the last axis."""
    first, axis = gather_axis % data.dim(), quantize_axis % data.dim()
    centre: Tensor | float = 0
    if data.dtype == torch.uint8 and _is_packed(data, scales, bits, block_size, axis):
        data, centre = unpacked(data, bits), 2.0 ** (bits - 1)
        zero_points = None if zero_points is None else unpacked(zero_points, bits)
    if zero_points is not None:
        centre = zero_points[..., : scales.shape[-1]]
    if first == axis:
        return gather(_blocks_as_numbers(data, scales, centre, block_size, axis), indices, axis=first)
    rows, scales = gather(data, indices, axis=first), gather(scales, indices, axis=first)
    centre = gather(centre, indices, axis=first) if isinstance(centre, Tensor) else centre
    axis += indices.dim() - 1 if axis > first else 0
    return _blocks_as_numbers(rows, scales, centre, block_size, axis)


def _is_packed(data: Tensor, scales: Tensor, bits: int, block_size: int, axis: int) -> bool:
    """Whether `data` is of type uint8, which packs, and not uint4, which is held the same."""
    width = data.shape[-1] * (8 // bits)
    return scales.shape[-1] == (-(-width // block_size) if axis == data.dim() - 1 else width)


def _blocks_as_numbers(
    whole: Tensor, scales: Tensor, centre: Tensor | float, block_size: int, axis: int
) -> Tensor:
    scale = laid_out(scales, whole, axis, block_size)
    if isinstance(centre, Tensor):
        centre = laid_out(centre, whole, axis, block_size).to(scale.dtype)
    return (whole.to(scale.dtype) - centre) * scale
