import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_text import RELU
from small_models import conv_net
from strategies import random_model
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import groups, model
from onnxprune.groups import Groups
from onnxprune.links import At


def members(found: Groups, name: str) -> set[tuple[str, int]]:
    (group,) = (group for group in found if group.name == name)
    return {(member.tensor, member.axis) for member in group.members}


def same_atoms(found: Groups, a: tuple[str, int], b: tuple[str, int]) -> bool:
    left, right = (found.labels[name][axis] for name, axis in (a, b))
    return left is not None and right is not None and (found.atoms.of[left] == found.atoms.of[right]).all()


# ---- what belongs together


def test_a_layers_output_channels_are_the_next_layers_input_channels():
    found = analysed(conv_net(6))
    assert sizes(found) == {"first": 6, "second": 12}
    assert members(found, "first") == {
        ("first.weight", 0),
        ("first.bias", 0),
        ("a", 1),
        ("b", 1),
        ("second.weight", 1),
    }
    assert ("head.weight", 1) in members(found, "second")


def test_a_residual_sum_couples_all_of_its_branches():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv<pads=[1,1,1,1]>(a, w2)  r = Relu(b)
                c = Conv<pads=[1,1,1,1]>(r, w3)  d = Add(a, c)  h = Relu(d)  p = GlobalAveragePool(h)
                f = Flatten(p)  y = Gemm(f, w4)
            }""",
            w1=(6, 3, 3, 3),
            w2=(4, 6, 3, 3),
            w3=(6, 4, 3, 3),
            w4=(6, 2),
        )
    )
    assert sizes(found) == {"w1": 6, "w2": 4}
    assert {("w1", 0), ("w2", 1), ("w3", 0), ("w4", 0)} <= members(found, "w1")


def test_each_part_of_a_concatenation_stays_a_group_of_its_own():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv(x, w1)  b = Conv(x, w2)  h = Concat<axis=1>(a, b)  p = GlobalAveragePool(h)
                f = Flatten(p)  y = Gemm(f, w3)
            }""",
            w1=(6, 3, 3, 3),
            w2=(4, 3, 3, 3),
            w3=(10, 2),
        )
    )
    assert sizes(found) == {"w1": 6, "w2": 4}
    whole = found.atoms.of[found.labels["h"][1]]
    assert whole[:6].tolist() == found.atoms.of[found.labels["w1"][0]].tolist()
    assert whole[6:].tolist() == found.atoms.of[found.labels["w2"][0]].tolist()


def test_each_part_of_a_split_goes_on_with_its_own_channels():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2,8,8] y, float[N,2,8,8] z) <int64[2] parts = {4, 2}> {
                a = Conv(x, w1)  b, c = Split<axis=1>(a, parts)  y = Conv(b, w2)  z = Conv(c, w3)
            }""",
            w1=(6, 3, 1, 1),
            w2=(2, 4, 1, 1),
            w3=(2, 2, 1, 1),
        )
    )
    whole, first, second = (
        found.atoms.of[found.labels[name][axis]] for name, axis in [("a", 1), ("w2", 1), ("w3", 1)]
    )
    assert first.tolist() == whole[:4].tolist()
    assert second.tolist() == whole[4:].tolist()
    assert sorted(sizes(found).values()) == [2, 4]


def test_a_depthwise_convolution_passes_channels_through():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv(x, w1)  h = Conv<group=6>(a, w2)  p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w3)
            }""",
            w1=(6, 3, 3, 3),
            w2=(6, 1, 3, 3),
            w3=(6, 2),
        )
    )
    assert sizes(found) == {"w1": 6}
    assert ("w2", 0) in members(found, "w1")


def test_a_depthwise_multiplier_ties_its_outputs_to_one_input():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv(x, w1)  h = Conv<group=4>(a, w2)  p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w3)
            }""",
            w1=(4, 3, 3, 3),
            w2=(8, 1, 3, 3),
            w3=(8, 2),
        )
    )
    assert sizes(found) == {"w1": 4}
    outputs = found.atoms.of[found.labels["h"][1]]
    assert outputs.tolist() == np.repeat(found.atoms.of[found.labels["a"][1]], 2).tolist()


def grouped() -> Groups:
    return analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv(x, w1)  h = Conv<group=2>(a, w2)  p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w3)
            }""",
            w1=(6, 3, 3, 3),
            w2=(8, 3, 3, 3),
            w3=(8, 2),
        )
    )


def test_a_grouped_convolution_loses_whole_groups_or_the_same_channels_of_each():
    found = grouped()
    assert sorted(sizes(found).values()) == [2, 3, 4]  # groups, channels into each, channels out of each
    whole, out = found.atoms.of[found.labels["a"][1]], found.atoms.of[found.labels["h"][1]]
    by_size = {group.size: group.atoms for group in found}
    assert [found.deciding(atom) for atom in whole.tolist()] == [
        sorted([int(g), int(i)]) for g in by_size[2] for i in by_size[3]
    ]
    assert [found.deciding(atom) for atom in out.tolist()] == [
        sorted([int(g), int(o)]) for g in by_size[2] for o in by_size[4]
    ]


def test_an_entry_of_a_grid_goes_with_any_of_its_factors():
    found = grouped()
    names = {group.size: group.name for group in found}
    gone = found.removed({names[2]: np.asarray([1]), names[4]: np.asarray([0, 2, 3])})
    assert gone[found.atoms.of[found.labels["a"][1]]].tolist() == [True] * 3 + [False] * 3
    assert gone[found.atoms.of[found.labels["h"][1]]].tolist() == [True] * 4 + [False, True, False, False]


def test_flattening_spreads_each_channel_over_its_positions():
    found = analysed(
        net(
            "net (float[N,3,4,4] x) => (float[N,2] y) { h = Conv(x, w1)  f = Flatten(h)  y = Gemm(f, w2) }",
            w1=(5, 3, 3, 3),
            w2=(20, 2),
        )
    )
    assert sizes(found) == {"w1": 5}
    rows = found.atoms.of[found.labels["w2"][0]]
    assert rows.tolist() == np.repeat(found.atoms.of[found.labels["h"][1]], 4).tolist()


def test_a_shortcut_that_strides_and_pads_with_zeros_can_be_pruned():
    """Option A of the CIFAR ResNets: x[:, :, ::2, ::2] padded with new channels on both sides."""
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) <int64[2] two = {2, 2}, int64[2] zero = {0, 0},
                    int64[2] far = {9223372036854775807, 9223372036854775807}, int64[2] over = {2, 3},
                    int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}> {
                a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w2)
                s = Slice(a, zero, far, over, two)  z = Pad(s, pads)  d = Add(b, z)  h = Relu(d)
                p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w3)
            }""",
            w1=(4, 3, 3, 3),
            w2=(8, 4, 3, 3),
            w3=(8, 2),
        )
    )
    assert sum(sizes(found).values()) == 8
    inner, outer = found.atoms.of[found.labels["a"][1]], found.atoms.of[found.labels["d"][1]]
    assert outer[2:6].tolist() == inner.tolist()
    assert len(set(outer.tolist())) == 8
    assert not because(found, "d", 1)


def test_a_broadcast_scale_joins_the_channels_it_scales_and_a_single_entry_joins_nothing():
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,2] y) {
                a = Conv(x, w1)  b = Mul(a, s)  h = Add(b, one)
                p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w2)
            }""",
            w1=(6, 3, 3, 3),
            w2=(6, 2),
            s=(6, 1, 1),
            one=(1,),
        )
    )
    assert members(found, "w1") == {("w1", 0), ("s", 0), *((v, 1) for v in "abhpf"), ("w2", 0)}


# ---- what is frozen, and why


def test_inputs_and_outputs_of_the_model_stay_whole():
    found = analysed(net("net (float[N,3,8,8] x) => (float[N,5,6,6] y) { y = Conv(x, w) }", w=(5, 3, 3, 3)))
    assert not sizes(found)
    assert because(found, "w", 1) == {"'x' is an input of the model"}
    assert because(found, "w", 0) == {"'y' is an output of the model"}


def through(op: str, *, opset: int = 18, domain: str = "", **shapes: tuple[int, ...]) -> Groups:
    """Conv, then `h = op`, then Conv, and the channels between them."""
    proto = net(
        f"net (float[N,3,8,8] x) => (float[N,2,H,W] y) {{ a = Conv(x, w1)  {op}  y = Conv(h, w2) }}",
        opset=opset,
        w1=(6, 3, 1, 1),
        w2=(2, 6, 1, 1),
        **shapes,
    )
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return analysed(proto)


def test_an_unknown_op_freezes_what_it_touches_and_says_so():
    found = through("h = acme.Mix(a)", domain="acme")
    assert because(found, "w1", 0) == {"Mix 'mix1': has no axis rule"}


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("h = MeanVarianceNormalization<axes=[1]>(a)", {}),
        ("l, i = TopK<axis=1>(a, six)  h = Add(a, l)", {}),
        ("m = ReduceMax(whole, axes)  f = Cast<to=1>(m)  h = Add(a, f)", {}),
    ],
)
def test_ops_that_mix_channels_freeze_them(op: str, shapes: dict[str, tuple[int, ...]]):
    assert not sizes(analysed(mixing(op, shapes)))


def mixing(op: str, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    values = {"one": np.asarray(1), "axes": np.asarray([1]), "six": np.asarray([6])}
    whole = "whole = Cast<to=7>(a)" if "whole" in op else ""
    return net(
        f"net (float[N,3,8,8] x) => (float[N,2,8,8] y) {{ a = Conv(x, w1)  {whole}  {op}  y = Conv(h, w2) }}",
        opset=21,
        values=values,
        w1=(6, 3, 1, 1),
        w2=(2, 6, 1, 1),
        **shapes,
    )


@pytest.mark.parametrize(
    ("op", "shapes", "group_sizes"),
    [
        ("h = Softmax<axis=1>(a)", {}, [6]),
        ("h = LpNormalization<axis=1>(a)", {}, [6]),
        ("h = CumSum(a, one)", {}, [6]),
        ("h = GroupNormalization<num_groups=2>(a, s, s)", {"s": (6,)}, [2, 3]),
        ("h = LayerNormalization<axis=1>(a, s)", {"s": (6, 8, 8)}, [6]),
        ("m = ReduceMean<keepdims=1>(a, axes)  h = Sub(a, m)", {}, [6]),
    ],
)
def test_ops_that_measure_over_channels_let_them_go(
    op: str, shapes: dict[str, tuple[int, ...]], group_sizes: list[int]
):
    assert sorted(group.size for group in analysed(mixing(op, shapes))) == group_sizes


@pytest.mark.parametrize(("training", "prunable"), [(0, True), (1, False)])
def test_batch_statistics_freeze_what_they_normalise(training: int, prunable: bool):
    found = through(
        f"h = BatchNormalization<training_mode={training}>(a, s, b, m, v)", s=(6,), b=(6,), m=(6,), v=(6,)
    )
    assert bool(sizes(found)) is prunable
    if not prunable:
        assert because(found, "w1", 0) == {
            "BatchNormalization 'batchnormalization1': it computes batch statistics"
        }


@pytest.mark.parametrize(("opset", "measured"), [(12, [2, 3]), (13, [2])])
def test_softmax_before_opset_13_runs_over_every_axis_from_its_own_on(opset: int, measured: list[int]):
    found = through(
        "t = Transpose<perm=[0,2,3,1]>(a)  s = Softmax<axis=2>(t)  h = Transpose<perm=[0,3,1,2]>(s)",
        opset=opset,
    )
    links = next(
        links for node, links in zip(found.nodes, found.links, strict=True) if node.op == "Softmax"
    )
    assert links is not None
    assert [at.axis for at in links.measured] == measured


def test_an_op_that_does_not_fit_its_rule_is_frozen():
    proto = net(
        "net (float[N,3,8,8] x) => (float[N,2,8,8] y) { a = Conv(x, w1)  y = Conv(a, w2) }",
        w1=(6, 3, 1, 1),
        w2=(2, 5, 1, 1),
    )
    found = analysed(proto)
    assert not sizes(found)
    assert "does not fit its axis rule (axis i is both 6 and 5)" in because(found, "w2", 1).pop()


def test_what_an_if_hands_out_is_what_its_branches_make():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    proto = net(
        """net (float[N,3,8,8] x, bool flag) => (float[N,2,8,8] y) {
            a = Conv(x, w1)  b = Conv(x, w3)  y = Conv(a, w2)  c = Conv(b, w4)
        }""",
        w1=(6, 3, 1, 1),
        w2=(2, 6, 1, 1),
        w3=(4, 3, 1, 1),
        w4=(2, 4, 1, 1),
    )
    proto.graph.node.append(
        helper.make_node("If", ["flag"], ["z"], name="if", then_branch=branch, else_branch=branch)
    )
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, ["N", 6, 8, 8]))
    proto.graph.output.append(helper.make_tensor_value_info("c", 1, ["N", 2, 8, 8]))
    found = analysed(proto)
    assert sizes(found) == {"w3": 4}
    assert because(found, "w1", 0) == {"'z' is an output of the model"}


def looped() -> onnx.ModelProto:
    """A Loop whose body adds the captured `a` three times."""
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "a"], ["next"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go", 9, []),
            helper.make_tensor_value_info("state", 1, None),
        ],
        [helper.make_tensor_value_info("go_on", 9, []), helper.make_tensor_value_info("next", 1, None)],
    )
    proto = net(
        "net (float[N,3,8,8] x) => (float[N,2,8,8] y) { a = Conv(x, w1)  y = Conv(h, w2) }",
        w1=(6, 3, 1, 1),
        w2=(2, 6, 1, 1),
        values={
            "times": np.asarray(3),
            "start": np.asarray(True),
            "zero": np.zeros((1, 6, 1, 1), np.float32),
        },
    )
    proto.graph.node.insert(
        1, helper.make_node("Loop", ["times", "start", "zero"], ["h"], name="loop", body=body)
    )
    return proto


def test_what_a_loop_carries_is_frozen():
    found = analysed(looped())
    assert not sizes(found)
    assert because(found, "w1", 0)


def test_weights_that_only_a_body_reads_are_pruned():
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w1"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    proto = net(
        "net (float[N,3,8,8] x, bool flag) => (float[N,2,8,8] y) { y = Conv(h, w2) }",
        w1=(6, 3, 1, 1),
        w2=(2, 6, 1, 1),
    )
    proto.graph.node.insert(
        0, helper.make_node("If", ["flag"], ["h"], name="if", then_branch=branch, else_branch=branch)
    )
    ((name, size),) = sizes(analysed(proto)).items()
    assert size == 6
    for checked in both_sides(proto, {name: (1, 4)}):
        assert checked.equal


def test_a_weight_that_a_body_reads_before_the_main_graph_does_is_gated_in_both():
    branch = helper.make_graph(
        [helper.make_node("ReduceSum", ["w1"], ["inner"], keepdims=0)],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    proto = net(
        "net (float[N,3,8,8] x, bool flag) => (float[N,2,4,4] y, float z) { h = Conv(x, w1) y = Conv(h, w2) }",
        w1=(64, 3, 5, 5),  # too large for a copy of its own per reader
        w2=(2, 64, 1, 1),
    )
    proto.graph.node.insert(
        0, helper.make_node("If", ["flag"], ["z"], name="if", then_branch=branch, else_branch=branch)
    )
    assert sizes(analysed(proto)) == {"w1": 64}
    for checked in both_sides(proto, {"w1": (1, 5, 40)}):
        assert checked.equal


def test_a_tensor_of_unknown_rank_freezes_what_meets_it():
    proto = net(
        "net (float[N,3,8,8] x, int64[K] to) => (float[A,B] y) { a = Conv(x, w1)  r = Reshape(a, to)  y = Relu(r) }",
        w1=(6, 3, 1, 1),
    )
    found = analysed(proto)
    assert not sizes(found)
    relu = next(number for number, node in enumerate(found.nodes) if node.op == "Relu")
    assert found.place(relu, At("in0", 0)) is None


def test_channels_frozen_by_the_caller_stay_and_are_told():
    why = {"first": "because I say so", "other": "of another model"}
    found = groups.find(model.load(conv_net()), why)
    assert sizes(found) == {"second": 16}
    assert [group.name for group in found.frozen_by_check] == ["first"]
    assert because(found, "first.weight", 0) == {"because I say so"}


def test_a_part_that_could_be_left_empty_is_frozen():
    """The first channel of every group of a grouped convolution is one channel of the factor `into each`."""
    found = analysed(
        net(
            """net (float[N,3,8,8] x) => (float[N,1,H,W] y)
            <int64[1] zero = {0}, int64[1] two = {2}, int64[1] one = {1}> {
                a = Conv(x, w1)  b = Conv<group=2>(a, w2)  s = Slice(a, zero, two, one)
                h = Conv(s, w3)  k = Conv(b, w4)  y = Add(h, k)
            }""",
            w1=(6, 3, 1, 1),
            w2=(8, 3, 1, 1),
            w3=(1, 2, 1, 1),
            w4=(1, 8, 1, 1),
        )
    )
    kept = found.removed({group.name: np.asarray([group.size - 1]) for group in found})
    assert (~kept[found.atoms.of[found.labels["s"][1]]]).any()


# ---- names


NAMES = "net (float[N,3,8,8] x) => (float[N,2,H,W] y) {{ a = Conv(x, {w})  y = Conv(a, v) }}"


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        ("layer1.conv.weight", "layer1.conv"),
        ("kernel", "kernel"),
        ("onnx::Conv_12", "conv0"),
        ("17", "conv0"),
        ("val_3", "conv0"),
    ],
)
def test_a_group_is_called_as_the_exporter_called_its_weight_else_as_its_node(weight: str, name: str):
    proto = net(NAMES.format(w="w"), v=(2, 6, 1, 1), w=(6, 3, 1, 1))
    proto.graph.node[0].input[1] = weight
    proto.graph.initializer[1].name = weight
    assert list(sizes(analysed(proto))) == [name]


def test_two_groups_never_share_a_name():
    proto = net(
        """net (float[N,3,8,8] x) => (float[N,2,H,W] y) {
            a = Conv(x, w)  b = Relu(a)  c = Conv(x, w)  d = Relu(c)  e = Concat<axis=1>(b, d)  y = Conv(e, v)
        }""",
        w=(100, 3, 4, 4),
        v=(2, 200, 1, 1),
    )
    found = sizes(analysed(proto))
    assert len(found) == len(set(found))


@pytest.mark.parametrize("seed", range(10))
def test_the_same_model_always_has_the_same_groups(seed: int):
    first, second = (analysed(random_model(seed)) for _ in range(2))
    facts = [[(g.name, g.members, g.atoms.tolist()) for g in found] for found in (first, second)]
    assert facts[0] == facts[1]


def test_names_do_not_depend_on_the_batch_being_dynamic():
    text = """net (float[{n},3,8,8] x) => (float[{n},2] y) {{
        h = Conv(x, w1)  p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm(f, w2)
    }}"""
    first, second = (analysed(net(text.format(n=n), w1=(6, 3, 3, 3), w2=(6, 2))) for n in ("N", "4"))
    assert [(g.name, g.members) for g in first] == [(g.name, g.members) for g in second]


def test_a_model_without_weights_has_no_groups():
    assert analysed(RELU).groups == ()


def test_groups_are_counted_anew_once_the_check_has_frozen_one():
    """Heads and dims decide together, so which group decides is asked before anything is frozen."""
    proto = net(
        """net (float[N,5,8] x) => (float[N,5,4] y) {
            a = MatMul(x, wa)  q = MatMul(a, wq)  s = Reshape(q, split)  r = Relu(s)  j = Reshape(r, join)
            y = MatMul(j, wo)
        }""",
        values={"split": np.asarray([0, 5, 4, 8]), "join": np.asarray([0, 5, 32])},
        wa=(8, 6),
        wq=(6, 32),
        wo=(32, 4),
    )
    first, *_ = (group.name for group in analysed(proto))
    found = groups.find(model.load(proto), {first: "not understood"})
    assert len(found.groups) == 2
    for number, group in enumerate(found):
        assert set(found.group_of[group.atoms].tolist()) == {number}
