"""LSTM, GRU and RNN."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.ops.recurrence import Activations, Cell, Layer, Outputs, State
from onnxprune.to_torch.registry import converts


@converts("LSTM", since=7)
def lstm(
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
    layout: int = 0,
    n_outputs: int = 1,
) -> Outputs:
    """Weights [ways, 4 hidden, ...] in the gate order input, output, forget, cell; peepholes i, o, f."""
    layer = Layer(x, w, r, b, lengths, (initial_h, initial_c), direction, layout, n_outputs)
    chosen, names = Activations(activations, activation_alpha, activation_beta, clip), _LSTM
    if lengths is None and p is None and not input_forget and chosen.are(names):
        return layer.by_kernel(torch.lstm, (0, 2, 3, 1))

    def cell(way: int) -> Cell:
        f, g, h = chosen.of(way, names)
        pi, po, pf = (0, 0, 0) if p is None else p[way].chunk(3)

        def step(x_t: Tensor, state: State) -> State:
            hidden, memory = state
            i, o, forget, new = (x_t + F.linear(hidden, r[way])).chunk(4, -1)
            i = f(i + pi * memory)
            forget = 1 - i if input_forget else f(forget + pf * memory)
            memory = forget * memory + i * g(new)
            return f(o + po * memory) * h(memory), memory

        return step

    bias = None if b is None else torch.add(*b.chunk(2, -1))
    return layer.by_loop([cell(way) for way in range(w.shape[0])], bias)


@converts("GRU", since=7)
def gru(
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
    layout: int = 0,
    n_outputs: int = 1,
) -> Outputs:
    """Weights [ways, 3 hidden, ...] in the gate order update, reset, hidden."""
    layer = Layer(x, w, r, b, lengths, (initial_h,), direction, layout, n_outputs)
    chosen, names = Activations(activations, activation_alpha, activation_beta, clip), _GRU
    if lengths is None and linear_before_reset and chosen.are(names):
        return layer.by_kernel(torch.gru, (1, 0, 2))
    bias_w, bias_r = (None, None) if b is None else b.chunk(2, -1)

    def cell(way: int) -> Cell:
        f, g = chosen.of(way, names)
        parts = [2 * r.shape[-1], r.shape[-1]]
        gates, own = torch.split(r[way], parts)
        gates_b, own_b = (None, None) if bias_r is None else torch.split(bias_r[way], parts)

        def step(x_t: Tensor, state: State) -> State:
            (hidden,) = state
            x_gates, x_new = torch.split(x_t, parts, -1)
            update, reset = f(x_gates + F.linear(hidden, gates, gates_b)).chunk(2, -1)
            if linear_before_reset:
                new = g(x_new + reset * F.linear(hidden, own, own_b))
            else:
                new = g(x_new + F.linear(reset * hidden, own, own_b))
            return ((1 - update) * new + update * hidden,)

        return step

    return layer.by_loop([cell(way) for way in range(w.shape[0])], bias_w)


@converts("RNN", since=7)
def rnn(
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
    layout: int = 0,
    n_outputs: int = 1,
) -> Outputs:
    layer = Layer(x, w, r, b, lengths, (initial_h,), direction, layout, n_outputs)
    chosen = Activations(activations, activation_alpha, activation_beta, clip)
    for name, kernel in (("tanh", torch.rnn_tanh), ("relu", torch.rnn_relu)):
        if lengths is None and chosen.are([name]):
            return layer.by_kernel(kernel, (0,))

    def cell(way: int) -> Cell:
        (f,) = chosen.of(way, ["tanh"])
        return lambda x_t, state: (f(x_t + F.linear(state[0], r[way])),)

    bias = None if b is None else torch.add(*b.chunk(2, -1))
    return layer.by_loop([cell(way) for way in range(w.shape[0])], bias)


_LSTM = ("sigmoid", "tanh", "tanh")
_GRU = ("sigmoid", "tanh")
