import doctest

import pytest

from onnxprune import axes
from onnxprune.axes import AxesError, Concatenation, Name, One, Product, Rest, bind, parse
from onnxprune.links import At, Frozen, Grid, Same, Virtual

CONV = "N i *S, o i *K, o -> N o *T"
DEPTHWISE = "N c *S, (c M) 1 *K, (c M) -> N (c M) *T"
GROUPED = "N (g i) *S, (g o) i *K, (g o) -> N (g o) *T"


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(axes)
    assert result.attempted and not result.failed


# ---- the notation


def test_every_form_of_the_notation_is_read():
    expression = parse("N (g i) *S, _, 1 c -> (p + q) C | N g *S")
    assert expression.inputs == (
        (Name("N"), Product((Name("g"), Name("i"))), Rest("S")),
        None,
        (One(), Name("c")),
    )
    assert expression.outputs == ((Concatenation((Name("p"), Name("q"))), Name("C")),)
    assert expression.macs == (Name("N"), Name("g"), Rest("S"))


def test_an_operand_without_axes_is_a_scalar():
    assert parse("a,  -> a").inputs == ((Name("a"),), ())


@pytest.mark.parametrize(("name", "frozen"), [("N", True), ("Kh", True), ("n", False), ("x0", False)])
def test_upper_case_keeps_its_size(name: str, frozen: bool):
    assert Name(name).frozen is frozen


@pytest.mark.parametrize(
    "text", ["N i", "(a b -> c", "a) -> a", "(a (b) c) -> a", "(a b + c) -> a", "(+ a) -> a", "() -> a"]
)
def test_a_malformed_expression_is_refused(text: str):
    with pytest.raises(AxesError):
        parse(text)


# ---- bound to shapes


def test_a_name_used_twice_is_the_same_axis():
    links = bind("N i *S, o i *K -> N o *T", [(2, 3, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)])
    assert {frozenset((same.a, same.b)) for same in links.same} == {
        frozenset((At("in0", 1), At("in1", 1))),
        frozenset((At("in1", 0), At("out0", 1))),
    }


def test_an_absent_operand_says_nothing():
    links = bind(CONV, [(2, 3, 8, 8), (4, 3, 3, 3), None], [(2, 4, 6, 6)])
    assert {place.operand for place in links.mentioned()} == {"in0", "in1", "out0"}


def test_fewer_operands_than_the_rule_speaks_of_are_fine():
    assert bind(CONV, [(2, 3, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)]).summed == [At("in0", 1)]


def test_upper_case_axes_are_frozen_on_every_operand():
    links = bind("N c, c -> N c", [(5, 4), (4,)], [(5, 4)])
    assert {fact.at for fact in links.frozen} == {At("in0", 0), At("out0", 0)}


def test_an_underscore_leaves_every_axis_of_the_operand_unmentioned():
    links = bind("a b, _ -> a b", [(2, 3), (7, 8)], [(2, 3)])
    assert not any(place.operand == "in1" for place in links.mentioned())


def test_a_broadcast_axis_ties_nothing():
    links = bind("1 c, n c -> n c", [(1, 4), (3, 4)], [(3, 4)])
    assert At("in0", 0) in links.free
    assert not any(At("in0", 0) in (same.a, same.b) for same in links.same)


def test_the_rest_stands_for_as_many_axes_as_are_left():
    links = bind("N c *S -> N c *S", [(1, 4, 5, 6, 7)], [(1, 4, 5, 6, 7)])
    pairs = {(same.a.axis, same.b.axis) for same in links.same}
    assert pairs == {(1, 1)}  # S is upper case: its axes keep their size
    assert {fact.at.axis for fact in links.frozen} == {2, 3, 4}


def test_the_rest_may_be_empty():
    assert bind("N c *S -> N c *S", [(2, 4)], [(2, 4)]).same == [Same(At("in0", 1), At("out0", 1))]


@pytest.mark.parametrize(
    ("data", "weight", "out", "factors"),
    [
        ((2, 8, 5, 5), (12, 2, 3, 3), (2, 12, 3, 3), {"g": 4, "o": 3}),
        ((2, 6, 5, 5), (4, 3, 1, 1), (2, 4, 5, 5), {"g": 2, "o": 2}),
    ],
)
def test_the_sizes_of_factors_are_solved(data, weight, out, factors):
    links = bind(GROUPED, [data, weight, (weight[0],)], [out])
    virtual = {
        place.name: place.size for grid in links.grids for place in grid.factors if isinstance(place, Virtual)
    }
    assert virtual == factors


def test_a_product_of_live_factors_is_a_grid_wherever_it_stands():
    links = bind(GROUPED, [(2, 8, 5, 5), (12, 2, 3, 3), (12,)], [(2, 12, 3, 3)])
    g, o = Virtual("g", 4), Virtual("o", 3)
    assert links.grids == [
        Grid(At("in0", 1), (g, At("in1", 1))),
        Grid(At("in1", 0), (g, o)),
        Grid(At("in2", 0), (g, o)),
        Grid(At("out0", 1), (g, o)),
    ]


def test_a_depthwise_product_with_multiplier_one_is_the_channel_itself():
    links = bind(DEPTHWISE, [(2, 8, 5, 5), (8, 1, 3, 3), (8,)], [(2, 8, 3, 3)])
    assert not links.grids
    assert {(same.a, same.b) for same in links.same} == {
        (At("in0", 1), At("in1", 0)),
        (At("in0", 1), At("in2", 0)),
        (At("in0", 1), At("out0", 1)),
    }


def test_a_depthwise_multiplier_is_a_factor_that_keeps_its_size():
    links = bind(DEPTHWISE, [(2, 4, 5, 5), (12, 1, 3, 3), (12,)], [(2, 12, 3, 3)])
    assert links.grids[0] == Grid(At("in1", 0), (At("in0", 1), Virtual("M", 3)))
    assert Frozen(Virtual("M", 3), "keeps this factor whole") in links.frozen


def test_parts_of_a_concatenation_lie_end_to_end():
    links = bind("N p, N q -> N (p + q)", [(2, 3), (2, 4)], [(2, 7)])
    assert Same(At("in0", 1), At("out0", 1), None, range(3)) in links.same
    assert Same(At("in1", 1), At("out0", 1), None, range(3, 7)) in links.same


def test_a_single_entry_that_is_joined_stays():
    links = bind("p, q -> (p + q)", [(1,), (4,)], [(5,)])
    assert [(fact.at, fact.index) for fact in links.frozen] == [(At("out0", 0), range(1))]


def test_the_part_of_a_concatenation_that_no_operand_has_is_solved():
    links = bind("p -> (p + q)", [(3,)], [(8,)])
    assert Same(Virtual("q", 5), At("out0", 0), None, range(3, 8)) in links.same


@pytest.mark.parametrize("shape", [(None, 4), (1, 4)])
def test_axes_of_dynamic_size_or_one_entry_are_free_and_tie_nothing(shape):
    links = bind("n c -> n c", [shape], [shape])
    assert {At("in0", 0), At("out0", 0)} <= set(links.free)
    assert links.same == [Same(At("in0", 1), At("out0", 1))]


def test_factors_merged_into_a_dynamic_axis_are_frozen():
    links = bind("n c -> (n c)", [(None, 4)], [(None,)])
    assert Frozen(At("in0", 1), "merges it into a dynamic axis") in links.frozen


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "saying"),
    [
        ("a b -> a b", [(2, 3, 4)], [(2, 3)], "rank 3 does not fit"),
        ("a *S *T -> a", [(2, 3)], [(2,)], "rank 2 does not fit"),
        ("a b *S -> a", [(2,)], [(2,)], "rank 1 does not fit"),
        ("a, a -> a", [(2,), (3,)], [(2,)], "axis a is both 2 and 3"),
        ("1 c -> c", [(2, 4)], [(4,)], "2 entries where a broadcast axis is meant"),
        ("(g i), i -> g", [(7,), (2,)], [(3,)], "7 entries where 6 are meant"),
        ("(g i), i -> (g o)", [(7,), (2,)], [(3,)], "7 entries are no multiple of 2"),
        ("p, q -> (p + q)", [(2,), (3,)], [(6,)], "6 entries where 5 are meant"),
        ("p, q -> (p + q)", [(2,), (None,)], [(6,)], "dynamic size"),
        ("a -> a", [(2,), (2,)], [(2,)], "2 inputs, but the rule speaks of 1"),
        ("a -> a", [...], [(2,)], "the shape of its input 0 is not known"),
    ],
)
def test_an_expression_that_does_not_fit_the_shapes_is_refused(text, inputs, outputs, saying):
    with pytest.raises(AxesError, match=saying):
        bind(text, inputs, outputs)


# ---- what is derived


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "summed"),
    [
        (CONV, [(2, 3, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)], [At("in0", 1)]),
        (DEPTHWISE, [(2, 8, 5, 5), (8, 1, 3, 3)], [(2, 8, 3, 3)], []),
        ("n i, i o -> n o", [(2, 3), (3, 4)], [(2, 4)], [At("in0", 1)]),
        ("n I, I o -> n o", [(2, 3), (3, 4)], [(2, 4)], []),
        ("n i, i o -> n o", [(2, 1), (1, 4)], [(2, 4)], []),
        ("h i, h i -> h", [(2, 3), (2, 3)], [(2,)], [At("in0", 1)]),
    ],
)
def test_axes_that_are_summed_away_are_named_once(text, inputs, outputs, summed):
    assert bind(text, inputs, outputs).summed == summed


def test_the_channels_inside_each_group_are_summed_away():
    links = bind(GROUPED, [(2, 8, 5, 5), (12, 2, 3, 3), (12,)], [(2, 12, 3, 3)])
    assert links.summed == [At("in0", 1)]


def size_of(place, inputs, outputs) -> int:
    if isinstance(place, Virtual):
        return place.size
    side = inputs if place.operand.startswith("in") else outputs
    return side[int(place.operand.lstrip("inout"))][place.axis]


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "macs"),
    [
        (CONV, [(2, 3, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)], 2 * 4 * 6 * 6 * 3 * 9),
        (DEPTHWISE, [(2, 8, 5, 5), (16, 1, 3, 3)], [(2, 16, 3, 3)], 2 * 16 * 9 * 9),
        (GROUPED, [(2, 8, 5, 5), (12, 2, 3, 3)], [(2, 12, 3, 3)], 2 * 12 * 9 * 2 * 9),
        (
            "N i *S, i o *K -> N o *T | N i o *S *K",
            [(2, 3, 4, 4), (3, 5, 2, 2)],
            [(2, 5, 8, 8)],
            2 * 3 * 5 * 16 * 4,
        ),
        ("n i, i o -> n o", [(2, 3), (3, 4)], [(2, 4)], 24),
    ],
)
def test_the_axes_of_the_macs_multiply_to_the_macs(text, inputs, outputs, macs):
    places = bind(text, inputs, outputs).macs
    assert places is not None
    product = 1
    for place in places:
        product *= size_of(place, inputs, outputs)
    assert product == macs


def test_ops_that_only_pass_entries_on_have_no_macs():
    assert bind("a b -> b a", [(2, 3)], [(3, 2)]).macs is None
