"""LSTM, GRU and RNN of opsets 1 to 6: time first, and told whether Y is wanted."""

from collections.abc import Sequence

from torch import Tensor

from onnxprune.to_torch.ops.recurrent import gru, lstm, rnn
from onnxprune.to_torch.registry import converts

_Outputs = Tensor | tuple[Tensor, ...]


@converts("LSTM", since=1)
def lstm_1(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    input_forget: int = 0,
    output_sequence: int = 0,
    n_outputs: int = 1,
) -> _Outputs:
    return lstm(
        x, w, r, b, lengths, initial_h, initial_c, p, direction=direction, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
        input_forget=input_forget, n_outputs=n_outputs,
    )  # fmt: skip


@converts("GRU", since=1)
def gru_1(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
    n_outputs: int = 1,
) -> _Outputs:
    return gru(
        x, w, r, b, lengths, initial_h, direction=direction, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
        linear_before_reset=linear_before_reset, n_outputs=n_outputs,
    )  # fmt: skip


@converts("RNN", since=1)
def rnn_1(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] = ("Tanh", "Tanh"),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    output_sequence: int = 0,
    n_outputs: int = 1,
) -> _Outputs:
    return rnn(
        x, w, r, b, lengths, initial_h, direction=direction, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, n_outputs=n_outputs,
    )  # fmt: skip
