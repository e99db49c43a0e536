"""Linear attention: what is written by keys that are gone must not be read."""

import onnx
import pytest
from onnx import helper
from strategies import random_plan
from test_law import both_sides
from text_nets import analysed, net, sizes

from onnxprune.cost import CostModel

RULES = {
    "linear": ("", {}),
    "gated": (', "", decay', {"wd": (5, 2)}),
    "delta": (', "", "", beta', {"wb": (5, 1)}),
    "gated_delta": (', "", decay, beta', {"wd": (5, 6), "wb": (5, 2)}),
}


def linear(rule: str) -> onnx.ModelProto:
    operands, more = RULES[rule]
    text = f"""net (float[N,4,5] x) => (float[N,4,2] y) {{
        q = MatMul(x, wq)  k1 = MatMul(x, wk)  k = Tanh(k1)  v = MatMul(x, wv)
        {"d1 = MatMul(x, wd)  d2 = Sigmoid(d1)  decay = Neg(d2)" if "wd" in more else ""}
        {"b1 = MatMul(x, wb)  beta = Sigmoid(b1)" if "wb" in more else ""}
        a, s = com.microsoft.LinearAttention<q_num_heads: int = 4, kv_num_heads: int = 2, update_rule: string="{rule}">
            (q, k, v{operands})
        y = MatMul(a, wo)
    }}"""
    proto = net(text, wq=(5, 12), wk=(5, 6), wv=(5, 10), wo=(20, 2), **more)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("rule", RULES)
def test_heads_queries_keys_and_values_lose_channels_apart(rule: str):
    proto = linear(rule)
    assert sorted(sizes(analysed(proto)).values()) == [2, 2, 3, 5]
    for seed in range(5):
        opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
        assert opened.equal and closed.equal


@pytest.mark.parametrize(("rule", "times"), [("linear", 1), ("delta", 2)])
def test_what_is_written_and_what_is_read_counts(rule: str, times: int):
    layers = 4 * 5 * (12 + 6 + 10) + 4 * 20 * 2 + (4 * 5 if rule == "delta" else 0)
    assert CostModel(analysed(linear(rule))).total["macs"] == layers + 4 * (12 * 5 + times * 6 * 5)
