"""LSTM, GRU and RNN, one step of time after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.registry import converts

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class Recurrence:
    """The attributes and optional inputs that LSTM, GRU and RNN share."""

    x: Tensor  # [time, batch, input]
    lengths: Tensor | None  # [batch]
    direction: str

    @property
    def reversed_ways(self) -> tuple[bool, ...]:
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[self.direction]

    def run(self, cells: Sequence[Cell], initial: Sequence[State]) -> tuple[Tensor, list[Tensor]]:
        """Y [time, ways, batch, hidden] and each state's last value [ways, batch, hidden]."""
        ways, finals = [], []
        for cell, state, turned in zip(cells, initial, self.reversed_ways, strict=True):
            outputs, final = self._one_way(cell, state, turned)
            ways.append(outputs)
            finals.append(final)
        return torch.stack(ways, 1), [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _one_way(self, cell: Cell, state: State, turned: bool) -> tuple[Tensor, State]:
        """Steps beyond a row's length leave its state and give 0."""
        outputs: list[Tensor] = []
        time = self.x.shape[0]
        for t in reversed(range(time)) if turned else range(time):
            new = cell(self.x[t], state)
            y = new[0]
            if self.lengths is not None:
                alive = (t < self.lengths)[:, None]
                new = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
                y = torch.where(alive, y, 0)
            state = new
            outputs.append(y)
        return torch.stack(outputs[::-1] if turned else outputs), state


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """One of the specification's activation functions, with its defaults."""
    a, b = alpha, beta
    table: dict[str, Activation] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": F.softsign,
        "softplus": F.softplus,
        "elu": lambda x: F.elu(x, 1.0 if a is None else a),
        "leakyrelu": lambda x: F.leaky_relu(x, 0.01 if a is None else a),
        "thresholdedrelu": lambda x: torch.where(x > (1.0 if a is None else a), x, 0),
        "affine": lambda x: (1.0 if a is None else a) * x + (0.0 if b is None else b),
        "scaledtanh": lambda x: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
        "hardsigmoid": lambda x: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    }
    return table[name.lower()]


@dataclass(frozen=True)
class Activations:
    """The attributes that choose activation functions, per direction."""

    names: Sequence[str] | None
    alphas: Sequence[float]
    betas: Sequence[float]
    clip: float | None

    def of(self, way: int, defaults: Sequence[str]) -> list[Activation]:
        """The functions of direction `way`; alphas and betas are given to those that take one, in order."""
        chosen = list(self.names or [*defaults, *defaults])
        alphas, betas = iter(self.alphas), iter(self.betas)
        functions = []
        for name in chosen:
            alpha = next(alphas, None) if name.lower() in _WITH_ALPHA else None
            beta = next(betas, None) if name.lower() in _WITH_BETA else None
            functions.append(self._clipped(activation(name, alpha, beta)))
        return functions[way * len(defaults) : (way + 1) * len(defaults)]

    def _clipped(self, function: Activation) -> Activation:
        limit = self.clip
        return function if limit is None else lambda x: function(x.clamp(-limit, limit))


_WITH_BETA = {"affine", "scaledtanh", "hardsigmoid"}
_WITH_ALPHA = {*_WITH_BETA, "elu", "leakyrelu", "thresholdedrelu"}


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
) -> Tensor | tuple[Tensor, ...]:
    """Weights [ways, 4 hidden, ...] in the gate order input, output, forget, cell; peepholes i, o, f."""
    chosen = Activations(activations, activation_alpha, activation_beta, clip)
    recurrence = Recurrence(x.transpose(0, 1) if layout else x, lengths, direction)

    def cell(way: int) -> Cell:
        f, g, h = chosen.of(way, ["Sigmoid", "Tanh", "Tanh"])
        bias = None if b is None else sum(b[way].chunk(2), torch.zeros((), device=x.device, dtype=x.dtype))
        pi, po, pf = (0, 0, 0) if p is None else p[way].chunk(3)

        def step(x_t: Tensor, state: State) -> State:
            hidden, memory = state
            gates = F.linear(x_t, w[way], bias) + F.linear(hidden, r[way])
            i, o, forget, new = gates.chunk(4, -1)
            i = f(i + pi * memory)
            forget = 1 - i if input_forget else f(forget + pf * memory)
            memory = forget * memory + i * g(new)
            return f(o + po * memory) * h(memory), memory

        return step

    ways = range(w.shape[0])
    initial = _initial(recurrence.x, r, [initial_h, initial_c], layout)
    y, finals = recurrence.run([cell(way) for way in ways], initial)
    return _outputs(y, finals, layout, n_outputs)


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
) -> Tensor | tuple[Tensor, ...]:
    """Weights [ways, 3 hidden, ...] in the gate order update, reset, hidden."""
    chosen = Activations(activations, activation_alpha, activation_beta, clip)
    recurrence = Recurrence(x.transpose(0, 1) if layout else x, lengths, direction)

    def cell(way: int) -> Cell:
        f, g = chosen.of(way, ["Sigmoid", "Tanh"])
        bias_w, bias_r = (None, None) if b is None else b[way].chunk(2)

        def step(x_t: Tensor, state: State) -> State:
            (hidden,) = state
            update, reset, new = F.linear(x_t, w[way], bias_w).chunk(3, -1)
            if linear_before_reset:
                r_update, r_reset, r_new = F.linear(hidden, r[way], bias_r).chunk(3, -1)
                gate = f(reset + r_reset)
                candidate = g(new + gate * r_new)
            else:
                size = r.shape[-1]
                gates, own = torch.split(r[way], [2 * size, size])
                gates_b, own_b = (None, None) if bias_r is None else torch.split(bias_r, [2 * size, size])
                r_update, r_reset = F.linear(hidden, gates, gates_b).chunk(2, -1)
                gate = f(reset + r_reset)
                candidate = g(new + F.linear(gate * hidden, own, own_b))
            z = f(update + r_update)
            return ((1 - z) * candidate + z * hidden,)

        return step

    initial = _initial(recurrence.x, r, [initial_h], layout)
    y, finals = recurrence.run([cell(way) for way in range(w.shape[0])], initial)
    return _outputs(y, finals, layout, n_outputs)


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
) -> Tensor | tuple[Tensor, ...]:
    chosen = Activations(activations, activation_alpha, activation_beta, clip)
    recurrence = Recurrence(x.transpose(0, 1) if layout else x, lengths, direction)

    def cell(way: int) -> Cell:
        (f,) = chosen.of(way, ["Tanh"])
        bias_w, bias_r = (None, None) if b is None else b[way].chunk(2)
        return lambda x_t, state: (f(F.linear(x_t, w[way], bias_w) + F.linear(state[0], r[way], bias_r)),)

    initial = _initial(recurrence.x, r, [initial_h], layout)
    y, finals = recurrence.run([cell(way) for way in range(w.shape[0])], initial)
    return _outputs(y, finals, layout, n_outputs)


def _initial(x: Tensor, r: Tensor, given: Sequence[Tensor | None], layout: int) -> list[State]:
    """The first states of each direction, zeros where none are given."""
    zeros = x.new_zeros(r.shape[0], x.shape[1], r.shape[-1])
    states = [zeros if g is None else g.transpose(0, 1) if layout else g for g in given]
    return [tuple(s[way] for s in states) for way in range(r.shape[0])]


def _outputs(y: Tensor, finals: list[Tensor], layout: int, n_outputs: int) -> Tensor | tuple[Tensor, ...]:
    """With `layout` 1 the batch comes first: Y [batch, time, ways, hidden], states [batch, ways, hidden]."""
    if layout:
        y, finals = y.permute(2, 0, 1, 3), [f.transpose(0, 1) for f in finals]
    return (y, *finals)[:n_outputs] if n_outputs > 1 else y
