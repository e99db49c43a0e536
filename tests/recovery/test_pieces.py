"""A gated model in pieces gives what it gives as a whole."""

import numpy as np
import onnx
import pytest
from strategies import random_inputs, random_model, random_plan
from text_nets import net

from onnxprune import gates, groups, model
from onnxprune.apart import Apart
from onnxprune.groups import Groups
from onnxprune.plan import Plan
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.pieces import Pieces
from onnxprune.recovery.store import Store
from onnxprune.session import open_session


def gated(proto: onnx.ModelProto) -> tuple[Groups, Apart]:
    loaded = model.load(proto)
    found = groups.find(loaded)
    gates.insert(found, {})
    return found, model.export(loaded)


def in_pieces(
    pieces: Pieces, feed: dict[str, np.ndarray], cuts: list[int], closed: frozenset[str], latents: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """The model's outputs when it is run from cut to cut."""
    with Store(0) as store:
        store.step(0, feed, pieces.live(0, closed))
        for start, stop in zip([0, *cuts], [*cuts, len(pieces.nodes)], strict=True):
            live = pieces.live(stop, closed)
            piece = pieces.piece(range(start, stop), live, store[0], closed=closed, weights=latents)
            store.step(0, piece(store[0]), live)
        return [store[0][pieces.value(name, closed)] for name in pieces.outputs]


def assert_same(made: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(made, wanted, strict=True):
        scale = max(float(np.abs(b.astype(float)).max(initial=0)), 1e-6)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_pieces_give_what_the_whole_gives(seed: int):
    """With all gates open as the plain model, with some closed as the gated model with these latents."""
    proto = random_model(seed)
    found, apart = gated(proto)
    pieces = Pieces(apart, found.shapes.sizes)
    rng, count = np.random.default_rng(seed), len(pieces.nodes)
    cuts = sorted(rng.integers(0, count + 1, size=3).tolist())
    feed = random_inputs(proto, seed)
    assert_same(in_pieces(pieces, feed, cuts, frozenset(), {}), open_session(proto).run(None, feed))
    kept = random_plan(seed, [(g.name, g.size) for g in found])
    closed = frozenset(name for name in kept if rng.random() < 0.7)
    plan = Plan({name: np.asarray(indices) for name, indices in kept.items() if name in closed})
    latents = plan.latents(found)
    gates.set_latents(apart, latents)
    wanted = open_session(apart).run(None, feed)
    shut = {f"gate/{name}": value for name, value in latents.items()}
    pieces = Pieces(gated(proto)[1], found.shapes.sizes)
    assert_same(in_pieces(pieces, feed, cuts, closed, shut), wanted)


CHAIN = net(
    "net (float[N,3] x) => (float[N,2] y) { a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  y = MatMul(c, w) }",
    u=(3, 8), v=(8, 6), w=(6, 2),
)  # fmt: skip


def test_an_open_gate_is_not_run():
    found, apart = gated(CHAIN)
    pieces = Pieces(apart, found.shapes.sizes)
    feed = {"x": np.ones((4, 3), dtype=np.float32)}
    span = range(len(pieces.nodes))

    def gates_in(closed: frozenset[str]) -> int:
        live = pieces.live(0, closed)
        assert live == ["x"]
        session = pieces.piece(span, pieces.outputs, feed, closed=closed).session
        assert session is not None
        return sum(node.op_type == "Gate" for node in _nodes(pieces, closed))

    first, second = (group.name for group in found)
    assert gates_in(frozenset()) == 0
    assert gates_in(frozenset({first})) == gates_in(frozenset({second})) == 1
    assert gates_in(frozenset({first, second})) == 2


def _nodes(pieces: Pieces, closed: frozenset[str]) -> list[onnx.NodeProto]:
    return [n for n in pieces.nodes if n.op_type != "Gate" or pieces.value(n.output[0], closed) == n.output[0]]


def test_what_is_live_is_what_is_read_later():
    found, apart = gated(CHAIN)
    pieces = Pieces(apart, found.shapes.sizes)
    place = {node.output[0]: k + 1 for k, node in enumerate(pieces.nodes)}
    assert pieces.live(place["a"]) == ["a"]
    assert pieces.live(place["b"]) == ["b"]
    assert pieces.live(len(pieces.nodes)) == ["y"]


def test_weights_are_replaced_and_given_anew():
    found, apart = gated(CHAIN)
    pieces = Pieces(apart, found.shapes.sizes)
    feed = {"x": np.ones((4, 3), dtype=np.float32)}
    span, zeros = range(len(pieces.nodes)), np.zeros((6, 2))
    assert not pieces.piece(span, ["y"], feed, weights={"w": zeros})(feed)["y"].any()
    free = {"w": zeros.astype(np.float32)}
    piece = pieces.piece(span, ["y"], feed, free=free)
    assert not piece(feed, free)["y"].any()
    whole = pieces.piece(span, ["y"], feed)(feed)["y"]
    np.testing.assert_allclose(piece(feed, {"w": 2 * pieces.constant("w")})["y"], 2 * whole, rtol=1e-5)


def test_what_the_model_passes_on_unchanged_comes_out():
    proto = net("net (float[N,3] x) => (float[N,3] x, float[N,2] y) { y = MatMul(x, w) }", w=(3, 2))
    found, apart = gated(proto)
    pieces = Pieces(apart, found.shapes.sizes)
    feed = {"x": np.ones((4, 3), dtype=np.float32)}
    made = pieces.piece(range(len(pieces.nodes)), pieces.outputs, feed)(feed)
    assert np.array_equal(made["x"], feed["x"]) and made["y"].shape == (4, 2)


def test_batches_of_another_size_run_through_the_same_piece():
    pieces = Anatomy.of(model.export(model.load(CHAIN)), {}, 0).pieces
    feed = {"x": np.ones((4, 3), dtype=np.float32)}
    piece = pieces.piece(range(1, len(pieces.nodes)), pieces.outputs, {"a": np.ones((4, 8), dtype=np.float32)})
    whole = pieces.piece(range(len(pieces.nodes)), ["a", "y"], feed)
    made = whole({"x": np.ones((7, 3), dtype=np.float32)})
    np.testing.assert_allclose(piece(made)["y"], made["y"], rtol=1e-6)
