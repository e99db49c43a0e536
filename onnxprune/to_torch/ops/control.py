"""Control flow: modules that hold the bodies of If, Loop and Scan as modules of their own.

A body takes its own inputs, a tensor on the device (or None), and what it reads from around the node, `captured`
here; it returns a tuple. Conditions and trip counts that are known, or follow from sizes, come as Python numbers,
so that such a graph compiles and exports in one piece.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onnxprune.to_torch.operands import Scalar, number
from onnxprune.to_torch.registry import converts

Captured = Sequence[Any]


@converts("If", since=1)
class If(nn.Module):
    """One branch or the other."""

    def __init__(self, *, then_branch: nn.Module, else_branch: nn.Module, n_outputs: int = 1) -> None:
        super().__init__()
        self.then_branch, self.else_branch, self.n_outputs = then_branch, else_branch, n_outputs

    def forward(self, cond: Scalar, captured: Captured = ()) -> Any:
        branch = self.then_branch if number(cond) else self.else_branch
        return _first(branch(*captured), self.n_outputs)


@converts("Loop", since=1)
class Loop(nn.Module):
    """`body(count, condition, *carried)` returns the condition, what is carried on, and what is stacked."""

    def __init__(self, *, body: nn.Module, n_outputs: int = 1) -> None:
        super().__init__()
        self.body, self.n_outputs = body, n_outputs

    def forward(
        self,
        trips: Scalar | None = None,
        cond: Scalar | None = None,
        *carried: Any,
        captured: Captured = (),
    ) -> Any:
        going = True if cond is None else bool(number(cond))
        most = None if trips is None else int(number(trips))
        values, stacked, count = carried, list[Sequence[Tensor]](), 0
        while going and (most is None or count < most):
            condition, *results = self.body(count, going, *values, *captured)
            values = tuple(results[: len(carried)])
            stacked.append(results[len(carried) :])
            going, count = bool(condition), count + 1
        if not stacked:
            empty = [_nothing(captured) for _ in range(self.n_outputs - len(carried))]
            return _first((*values, *empty), self.n_outputs)
        return _first((*values, *map(torch.stack, zip(*stacked, strict=True))), self.n_outputs)


def _nothing(captured: Captured) -> Tensor:
    """What no trip has stacked; its further axes are not known."""
    return torch.empty(0, device=captured[0].device if captured and captured[0] is not None else None)


@converts("Scan", since=9)
class Scan(nn.Module):
    """`body(*states, *slices)` returns states and slices; these run along axes, forwards (0) or backwards (1)."""

    def __init__(
        self,
        *,
        body: nn.Module,
        num_scan_inputs: int,
        scan_input_axes: Sequence[int] | None = None,
        scan_input_directions: Sequence[int] | None = None,
        scan_output_axes: Sequence[int] | None = None,
        scan_output_directions: Sequence[int] | None = None,
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        self.body, self.scanned, self.n_outputs = body, num_scan_inputs, n_outputs
        self.axes = scan_input_axes or [0] * num_scan_inputs
        self.turned = scan_input_directions or [0] * num_scan_inputs
        self.output_axes, self.output_turned = scan_output_axes, scan_output_directions

    def forward(self, *values: Tensor, captured: Captured = ()) -> Any:
        states, scanned = values[: -self.scanned], values[-self.scanned :]
        slices = [
            turn(x.unbind(axis), turned)
            for x, axis, turned in zip(scanned, self.axes, self.turned, strict=True)
        ]
        rows: list[Sequence[Tensor]] = []
        for entries in zip(*slices, strict=True):
            results = self.body(*states, *entries, *captured)
            states = tuple(results[: len(states)])
            rows.append(results[len(states) :])
        columns = list(zip(*rows, strict=True))
        axes = self.output_axes or [0] * len(columns)
        backwards = self.output_turned or [0] * len(columns)
        outputs = [
            torch.stack(list(turn(column, turned)), axis)
            for column, axis, turned in zip(columns, axes, backwards, strict=True)
        ]
        return _first((*states, *outputs), self.n_outputs)


@converts("Scan", since=8)
class Scan8(nn.Module):
    """Every value has a batch axis in front; each row of the batch is scanned by itself, as far as its length."""

    def __init__(
        self,
        *,
        body: nn.Module,
        num_scan_inputs: int,
        directions: Sequence[int] | None = None,
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        self.scanned = num_scan_inputs
        self.scan = Scan(
            body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions, n_outputs=n_outputs
        )

    def forward(self, lengths: Tensor | None = None, *values: Tensor, captured: Captured = ()) -> Any:
        rows = []
        for i, row in enumerate(zip(*values, strict=True)):
            states, scanned = row[: -self.scanned], row[-self.scanned :]
            most = max(x.shape[0] for x in scanned)
            length = most if lengths is None else int(lengths[i])
            results = self.scan(*states, *(x[:length] for x in scanned), captured=captured)
            results = results if isinstance(results, tuple) else (results,)
            ends = [_filled(r, most) for r in results[len(states) :]]
            rows.append((*results[: len(states)], *ends))
        return _first(tuple(map(torch.stack, zip(*rows, strict=True))), self.scan.n_outputs)


def _filled(x: Tensor, length: int) -> Tensor:
    """`x` with zeros at the end of its first axis."""
    return torch.cat([x, x.new_zeros(length - x.shape[0], *x.shape[1:])]) if x.shape[0] < length else x


def turn(entries: Sequence[Tensor], turned: int) -> Sequence[Tensor]:
    """The entries in order, or from the last to the first."""
    return entries[::-1] if turned else entries


def _first(values: tuple[Any, ...], count: int) -> Any:
    return values[:count] if count > 1 else values[0]
