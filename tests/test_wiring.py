import numpy as np
import onnx
import pytest
from disguise import disguised
from text_nets import analysed, net

from onnxprune.wiring import MOST, Wiring, wiring


def wired(proto: onnx.ModelProto) -> Wiring:
    return wiring(analysed(proto))


def keys(found: Wiring) -> list[str]:
    return sorted(found.keys.values())


def residual(blocks: int) -> onnx.ModelProto:
    """Blocks of equal layers on one stream: only their place tells them apart."""
    steps = "".join(f"a{k} = Conv(h{k}, v{k})  b{k} = Relu(a{k})  h{k + 1} = Add(h{k}, b{k})\n" for k in range(blocks))
    return net(
        f"net (float[N,3,2,2] x) => (float[N,2,2,2] y) {{ h0 = Conv(x, stem)\n{steps} y = Conv(h{blocks}, last) }}",
        stem=(4, 3, 1, 1), last=(2, 4, 1, 1), **{f"v{k}": (4, 4, 1, 1) for k in range(blocks)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "layers"),
    [
        ("y = MatMul(x, w)", ["MatMul"]),
        ("a = Transpose<perm = [1, 0]>(w)  b = Transpose<perm = [1, 0]>(a)  y = MatMul(x, b)", ["MatMul"]),
        ("a = Transpose<perm = [1, 0]>(x)  b = MatMul(a, x)  y = MatMul(x, b)", []),
        ("a = Einsum<equation = \"ni,io->no\">(x, w)  y = Gemm(a, w2, c)", ["Einsum", "Gemm"]),
        ("a = Mul(x, c)  b = LayerNormalization(a, c, c)  y = Gelu(b)", []),
    ],
)  # fmt: skip
def test_layers_are_the_nodes_that_compute_with_weights(body: str, layers: list[str]):
    proto = net(
        f"net (float[N,4] x) => (float[N,M] y) {{ {body} }}", opset=20, w=(4, 4), w2=(4, 4), c=(4,)
    )
    read = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in read]:
        proto.graph.initializer.remove(tensor)
    found = wired(proto)
    assert [layer.node.op for layer in found.layers.values()] == layers


def test_an_embedding_is_no_layer_but_what_reads_it_is():
    proto = net(
        "net (int64[N,5] x) => (float[N,5,2] y) { a = Gather(table, x)  y = MatMul(a, w) }", table=(9, 4), w=(4, 2)
    )
    assert [layer.shapes for layer in wired(proto).layers.values()] == [("4x2",)]


def test_a_weight_is_told_by_its_sizes_however_it_is_laid_out():
    shapes = [
        wired(net(f"net (float[N,6] x) => (float[N,4] y) {{ y = Gemm<transB = {t}>(x, w) }}", w=shape)).layers
        for t, shape in ((0, (6, 4)), (1, (4, 6)))
    ]
    assert [layer.shapes for (layer,) in (found.values() for found in shapes)] == [("6x4",), ("6x4",)]


@pytest.mark.parametrize("blocks", [3, MOST - 1, MOST, 3 * MOST])
def test_every_layer_of_a_residual_stream_has_a_key_of_its_own(blocks: int):
    """Also where more layers come together than are told one by one."""
    found = wired(residual(blocks))
    assert len(set(keys(found))) == len(found.layers) == blocks + 2
    assert keys(found) == keys(wired(disguised(residual(blocks), blocks).model))


@pytest.mark.parametrize("blocks", [3, MOST, 3 * MOST])
def test_a_longer_stream_has_no_key_in_common(blocks: int):
    assert not set(keys(wired(residual(blocks)))) & set(keys(wired(residual(blocks + 1))))


def test_paths_are_common_up_to_where_networks_part():
    one, other = (wired(residual(blocks)) for blocks in (3, 4))
    assert {one.paths[k] for k in one.layers if one.depth[k] < 3} <= set(other.paths.values())


def test_layers_inside_a_branch_lie_between_those_around_it():
    proto = net(
        """net (float[N,3,4,4] x, bool c) => (float[N,2,4,4] y) {
            a = Conv(x, v)
            b = If(c) <
                then_branch = t () => (float[N,8,4,4] p) { p = Conv(a, w) },
                else_branch = e () => (float[N,8,4,4] q) { q = Relu(a) }
            >
            y = Conv(b, last)
        }""",
        v=(8, 3, 1, 1), w=(8, 8, 1, 1), last=(2, 8, 1, 1),
    )  # fmt: skip
    found = wired(proto)
    depths = {layer.weights[0].name: found.depth[number] for number, layer in found.layers.items()}
    assert depths == {"v": 0, "w": 1, "last": 2}
    assert keys(found) == keys(wired(disguised(proto, 1).model))


def test_inputs_and_outputs_count_by_their_place_not_by_their_name():
    text = "net (float[N,4] {}, float[N,4] {}) => (float[N,3] y) {{ c = Gemm(a, v)  d = Gemm(b, w)  y = Sub(c, d) }}"
    usual, swapped = (
        net(text.format(*inputs), values={"v": np.ones((4, 3), np.float32), "w": np.ones((4, 3), np.float32)})
        for inputs in ("ab", "ba")
    )
    for proto, first in ((usual, "v"), (swapped, "w")):
        found = wired(proto)
        of = {layer.weights[0].name: found.paths[number] for number, layer in found.layers.items()}
        assert of[first] == wired(usual).paths[0] != of["vw".replace(first, "")]
