"""BatchNormalization folded into the convolutions before it: nothing but the work changes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import Tensor

from onnxprune import to_torch
from onnxprune.training.folding import conv_and_norm, fold_norms

DIGITS = Path(__file__).parents[2] / "models/digits/digits.onnx"
NORM = "BatchNormalization<epsilon=0.01>"
NETS = {
    "plain": f"c = Conv(x, w)  n = {NORM}(c, s, b, m, v)  y = Relu(n)",
    "with a bias": f"c = Conv<pads=[1,0,0,1],strides=[2,1]>(x, w, o)  n = {NORM}(c, s, b, m, v)  y = Relu(n)",
    "twice": f"c = Conv(x, w, o)  n = {NORM}(c, s, b, m, v)  p = {NORM}(n, s, b, m, v)  y = Relu(p)",
}
KEPT = {
    "read beside": f"c = Conv(x, w)  n = {NORM}(c, s, b, m, v)  y = Add(n, c)",
    "no convolution": f"c = Relu(x)  n = {NORM}(c, i, j, k, l)  y = Conv(n, w)",
    "the batch's own": "c = Conv(x, w)  y, p, q = BatchNormalization<training_mode=1>(c, s, b, m, v)",
}


def net(text: str, dtype: str = "float") -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    sizes = {"w": (6, 4, 3, 3), "o": (6,), **dict.fromkeys("sbm", (6,)), "v": (6,), **dict.fromkeys("ijkl", (4,))}
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 15]> net ({dtype}[N,4,7,7] x) => ({dtype}[N,6,H,W] y) {{ {text} }}'
    )
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in sizes.items():
        values = rng.uniform(0.5, 1.5, shape) * (1 if name in "vl" else rng.choice([-1, 1], shape))
        kind = np.float16 if dtype == "float16" and name in "wo" else np.float32
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(kind), name))
    return model


def run(module: torch.fx.GraphModule, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of all parameters."""
    for weight in module.parameters():
        weight.requires_grad_(weight.is_floating_point())
        weight.grad = None
    made = module(x)
    y = made if isinstance(made, Tensor) else made[0]
    y.float().square().mean().backward()
    return y.detach(), {name: weight.grad for name, weight in module.named_parameters()}


def norms(module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_module" and "BatchNorm" in str(node.target) for node in module.graph.nodes)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_outputs_and_gradients_stay(name: str, dtype: str):
    model = net(NETS[name], dtype)
    module, folded = to_torch.load(model), fold_norms(to_torch.load(model))
    assert norms(folded) == norms(module) - 1
    x = torch.randn(3, 4, 7, 7, generator=torch.Generator().manual_seed(1))
    (y, gradients), (z, others) = (run(one, x.half() if dtype == "float16" else x) for one in (module, folded))
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == "float16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y, z, **close)
    assert gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[key], **close)
    assert module.state_dict().keys() == folded.state_dict().keys(), "and what is written back"


def test_all_of_a_trained_network():
    module, folded = to_torch.load(DIGITS), fold_norms(to_torch.load(DIGITS))
    assert norms(module) > 2
    assert norms(folded) == 0
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module(x), folded(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_a_convolution_and_its_norm_stays_as_it_is(name: str):
    module = to_torch.load(net(KEPT[name]))
    assert conv_and_norm not in {node.target for node in fold_norms(module).graph.nodes}
    module(torch.zeros(2, 4, 7, 7))


def test_a_module_in_train_mode_is_left_alone():
    module = fold_norms(to_torch.load(net(NETS["plain"])).train())
    assert norms(module) == 1
