"""What LSTM, GRU and RNN share: torch's own kernels where they compute the same, else a loop over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]
Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Activations:
    """The attributes that choose activation functions, per direction."""

    names: Sequence[str] | None
    alphas: Sequence[float]
    betas: Sequence[float]
    clip: float | None

    def are(self, names: Sequence[str]) -> bool:
        """Whether every direction has exactly these functions, or leaves them to the default."""
        chosen = [n.lower() for n in self.names or names]
        return not self.clip and chosen == list(names) * (len(chosen) // len(names))

    def of(self, way: int, defaults: Sequence[str]) -> list[Activation]:
        """The functions of direction `way`; alphas and betas are given to those that take one, in order.

        What the third function of an LSTM takes is not clipped, as in onnxruntime.
        """
        chosen = [n.lower() for n in self.names or [*defaults, *defaults]]
        alphas, betas = iter(self.alphas), iter(self.betas)
        functions = []
        for i, name in enumerate(chosen):
            alpha = next(alphas, None) if name in _WITH_ALPHA else None
            beta = next(betas, None) if name in _WITH_BETA else None
            function = activation(name, alpha, beta)
            functions.append(function if i % len(defaults) == 2 else self._clipped(function))
        return functions[way * len(defaults) : (way + 1) * len(defaults)]

    def _clipped(self, function: Activation) -> Activation:
        limit = self.clip
        return (lambda x: function(x.clamp(-limit, limit))) if limit else function


@dataclass(frozen=True)
class Layer:
    """The inputs that LSTM, GRU and RNN share, and the attributes that say how they lie."""

    x: Tensor
    w: Tensor
    r: Tensor
    b: Tensor | None
    lengths: Tensor | None
    given: Sequence[Tensor | None]
    direction: str
    layout: int
    n_outputs: int

    @property
    def reversed_ways(self) -> tuple[bool, ...]:
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[self.direction]

    def in_time(self) -> Tensor:
        """The input [time, batch, input]."""
        return self.x.transpose(0, 1) if self.layout else self.x

    def initial(self) -> list[Tensor]:
        """Each state before the first step [ways, batch, hidden], zeros where none is given."""
        ways, _, hidden = self.r.shape
        zeros = self.x.new_zeros(ways, self.x.shape[0 if self.layout else 1], hidden)
        return [zeros if g is None else g.transpose(0, 1) if self.layout else g for g in self.given]

    def by_kernel(self, kernel: Callable[..., Any], order: Sequence[int]) -> Outputs:
        """By `torch.lstm` and its like, whose gates are the ONNX gates in this `order`."""
        x, states = self.in_time(), self.initial()
        x = x.flip(0) if self.direction == "reverse" else x
        if torch.compiler.is_dynamo_compiling() and self.w.requires_grad and not x.requires_grad:
            # torch.compile asks the input alone whether an LSTM on the CPU trains, and its backward then fails.
            x = x + 0 * self.w[0, 0, 0]
        y, *finals = kernel(
            x, tuple(states) if len(states) > 1 else states[0], self._flat_weights(order), self.b is not None, 1,
            0.0, True, len(self.reversed_ways) == 2, False,
        )  # fmt: skip
        y = y.unflatten(-1, (len(self.reversed_ways), -1)).transpose(1, 2)
        return self.outputs(y.flip(0) if self.direction == "reverse" else y, finals)

    def _flat_weights(self, order: Sequence[int]) -> list[Tensor]:
        """Each direction's weights and biases as views of one tensor, which cuDNN else would copy and warn."""
        weights = [part for way in zip(self.w, self.r, strict=True) for part in way]
        biases = [part for way in self.b for part in way.chunk(2)] if self.b is not None else []
        parts = [*weights, *biases]
        gates = [part.unflatten(0, (len(order), -1)) for part in parts]
        flat = torch.cat([gate[i].reshape(-1) for gate in gates for i in order])
        views = torch.split(flat, [part.numel() for part in parts])
        turned = [view.view(part.shape) for view, part in zip(views, parts, strict=True)]
        if not biases:
            return turned
        pairs = range(0, len(weights), 2)
        return [v for i in pairs for v in (*turned[i : i + 2], *turned[len(weights) + i :][:2])]

    def by_loop(self, cells: Sequence[Cell], bias: Tensor | None) -> Outputs:
        """One step after the other; a cell takes `x w + bias` of its step, `bias` [ways, gates * hidden]."""
        ways, finals = [], []
        for i, (cell, turned) in enumerate(zip(cells, self.reversed_ways, strict=True)):
            projected = F.linear(self.in_time(), self.w[i], None if bias is None else bias[i])
            y, final = self._one_way(cell, projected, tuple(s[i] for s in self.initial()), turned)
            ways.append(y)
            finals.append(final)
        return self.outputs(torch.stack(ways, 1), [torch.stack(s) for s in zip(*finals, strict=True)])

    def _one_way(self, cell: Cell, x: Tensor, state: State, turned: bool) -> tuple[Tensor, State]:
        """Steps beyond a row's length leave its state and give 0."""
        outputs: list[Tensor] = []
        steps = range(x.shape[0])
        for t in reversed(steps) if turned else steps:
            new = cell(x[t], state)
            y = new[0]
            if self.lengths is not None:
                alive = (t < self.lengths)[:, None]
                new = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
                y = torch.where(alive, y, 0)
            state = new
            outputs.append(y)
        return torch.stack(outputs[::-1] if turned else outputs), state

    def outputs(self, y: Tensor, finals: Sequence[Tensor]) -> Outputs:
        """Y [time, ways, batch, hidden], states [ways, batch, hidden]; with `layout` 1 the batch comes first."""
        if self.layout:
            y, finals = y.permute(2, 0, 1, 3), [f.transpose(0, 1) for f in finals]
        return (y, *finals)[: self.n_outputs] if self.n_outputs > 1 else y


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
    return table[name]


_WITH_BETA = {"affine", "scaledtanh", "hardsigmoid"}
_WITH_ALPHA = {*_WITH_BETA, "elu", "leakyrelu", "thresholdedrelu"}
