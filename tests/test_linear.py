"""Products: what is summed, what passes, and how Einsum spells it."""

import onnx
import pytest
from strategies import random_plan
from test_law import both_sides
from text_nets import analysed, because, net, sizes


def between(equation: str, *shape: int, out: int, rank: int = 3) -> onnx.ModelProto:
    """An Einsum of 6 channels with a second operand of this shape, between two layers."""
    ranks = ",".join(f"o{k}" for k in range(rank - 1))
    return net(
        f"""net (float[N,5,3] x) => (float[{ranks},2] y) {{
            a = MatMul(x, w1)  b = Einsum<equation: string = "{equation}">(a, v)  y = MatMul(b, w2)
        }}""",
        w1=(3, 6),
        v=shape,
        w2=(out, 2),
    )


@pytest.mark.parametrize(
    ("equation", "shape", "out", "groups"),
    [
        ("btc,cd->btd", (6, 4), 4, [4, 6]),
        ("btc,cz", (6, 4), 4, [4, 6]),  # what appears once, in alphabetical order
        ("...c,cd->...d", (6, 4), 4, [4, 6]),
        ("...c,cd", (6, 4), 4, [4, 6]),
        ("bTC,CD->bTD", (6, 4), 4, [4, 6]),  # case means nothing but that letters differ
        ("btc,c->btc", (6,), 6, [6]),
        ("btc,c->btc", (1,), 6, [6]),
        ("...,...->...", (1, 5, 6), 6, [6]),
        ("btc,tc->btc", (5, 1), 6, [6]),
    ],
)
def test_equations_say_what_is_summed_and_what_passes(
    equation: str, shape: tuple[int, ...], out: int, groups: list[int]
):
    proto = between(equation, *shape, out=out)
    assert sorted(sizes(analysed(proto)).values()) == groups
    for seed in range(3):
        opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
        assert opened.equal and closed.equal


def test_a_diagonal_freezes():
    proto = between("btc,cc->btc", 6, 6, out=6)
    assert sizes(analysed(proto)) == {}
    assert because(analysed(proto), "a", 2) == {"Einsum 'einsum1': its equation takes a diagonal"}
