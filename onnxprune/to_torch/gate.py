"""Gates: a channel's latent decides whether the channel passes."""

from collections.abc import Callable

from torch import Tensor, nn

from onnxprune.to_torch.registry import converts


def hard(w: Tensor) -> Tensor:
    """1 where `w > 0`, else 0: what the Gate function of the file computes."""
    return (w > 0).to(w.dtype)


@converts("Gate", domain="onnxprune", since=1)
class Gate(nn.Module):
    """`x * gate_value(w)`, in the dtype of `x`; `w` broadcasts against `x`."""

    def __init__(self, *, gate_value: Callable[[Tensor], Tensor] | None = None, to: int = 1) -> None:
        super().__init__()
        self.gate_value = gate_value or hard

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return x * self.gate_value(w).to(x.dtype)
