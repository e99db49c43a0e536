"""Re-imported modules under autocast, in channels_last and compiled: they stay what native modules are there."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from small import cnn, draw
from test_fusion import block
from test_torchvision import export, small_cnn
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from onnxprune import gates, groups, model
from onnxprune.methods.gate import gate
from onnxprune.to_torch import load
from onnxprune.to_torch.ops.gate import Gate


def gated(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = model.load(proto)
    gates.insert(groups.find(loaded), {})
    return model.to_proto(loaded)


def network() -> nn.Module:
    """A small one with what MobileNets and ResNets are made of."""
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
                nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
                nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2), Residual(),
        nn.AvgPool2d(2), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return made.eval()


IMAGES = torch.from_numpy(draw(4, 3, 16, 16))
TOKENS = torch.from_numpy(draw(3, 5, 32))
NETS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "cnn": (network, IMAGES),
    "transformer": (lambda: block(nn.GELU()).eval(), TOKENS),
}


def imported(name: str, *, with_gates: bool = False) -> tuple[nn.Module, fx.GraphModule, torch.Tensor]:
    build, x = NETS[name]
    original = build()
    proto = export(original, x[:2], dynamo=False)
    if with_gates:
        return original, load(gated(proto), gate_value=gate), x
    return original, load(proto), x


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("with_gates", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("name", NETS)
def test_under_bfloat16_autocast_it_is_near_to_itself_in_float32(name: str, with_gates: bool, train: bool) -> None:
    original, module, x = imported(name, with_gates=with_gates)
    exact = module.train(train)(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, native = module(x), original.train(train)(x)
    assert y.dtype == native.dtype
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()
    y.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())


class Copies(TorchDispatchMode):
    """How often something of rank 4 was laid out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy):
            self.seen[str(func)] += given is not None and given.dim() == 4
        return result


@pytest.mark.parametrize("with_gates", [False, True], ids=["plain", "gated"])
def test_channels_last_stays_so_from_end_to_end(with_gates: bool) -> None:
    _, module, x = imported("cnn", with_gates=with_gates)
    expected = module(x)
    module = module.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    seen = []

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.op.startswith("call") and isinstance(result, torch.Tensor) and result.dim() == 4:
                seen.append((n.name, result.is_contiguous(memory_format=torch.channels_last)))
            return result

    with Copies() as copies:
        Record(module.train()).run(x).sum().backward()
    assert len(seen) > 10
    assert [name for name, kept in seen if not kept] == []
    assert copies.seen.total() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_with_all_gates_in_it_is_one_graph_and_trains_on_any_batch(name: str) -> None:
    _, module, x = imported(name, with_gates=True)
    module.train()
    frames: list[fx.GraphModule] = []

    def count(graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        frames.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, backend=count, fullgraph=True, dynamic=True)
    for batch in (4, 3, 2, 4):
        compiled(x[:1].repeat(batch, *[1] * (x.dim() - 1)) + torch.randn(())).sum().backward()
    assert len(frames) == 1
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("with_gates", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("name", NETS)
def test_compiled_it_computes_the_same_forwards_and_backwards(name: str, with_gates: bool) -> None:
    _, module, x = imported(name, with_gates=with_gates)
    expected = module(x)
    expected.square().sum().backward()
    gradients = {n: p.grad for n, p in module.named_parameters()}
    module.zero_grad()
    torch._dynamo.reset()
    y = torch.compile(module, fullgraph=True)(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        {n: p.grad for n, p in module.named_parameters()}, gradients, rtol=1e-3, atol=1e-3
    )


def test_a_gated_file_trains_in_bfloat16_and_channels_last_together() -> None:
    module = load(cnn(gated=True), gate_value=gate).to(memory_format=torch.channels_last).train()
    x = torch.from_numpy(draw(2, 3, 8, 8)).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        module(x).sum().backward()
    assert module.get_parameter("gate/stem").grad is not None


def test_every_gate_of_a_small_cnn_may_be_on_weights_instead() -> None:
    module = load(gated(export(small_cnn().eval(), torch.randn(2, 3, 14, 14), dynamo=False)))
    assert all(m.weights_instead is not None for m in module.modules() if isinstance(m, Gate))
