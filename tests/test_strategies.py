"""The random graphs are what the law needs: valid, runnable, of every op, and alive."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
from blocks import BLOCKS
from hypothesis import Phase, given, settings
from strategies import OPSETS, models, plans, random_inputs, random_model, random_plan

# What must be drawn: the ops that onnxprune promises to prune through, and some that it must only survive.
PROMISED = [
    "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "Gemm", "MatMul", "Softmax", "LogSoftmax", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish",
    "HardSigmoid", "Elu", "Selu", "Celu", "Softplus", "Softsign", "PRelu", "Clip", "Gelu", "Erf",
    "Mish", "Abs", "Neg", "Sqrt", "Exp", "Log", "Reciprocal", "Add", "Sub", "Mul", "Div", "Pow", "Max",
    "Min", "Sum", "Mean", "Where", "Greater", "Cast", "CastLike", "Identity", "Dropout", "MaxPool",
    "AveragePool",
    "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalMaxPool", "ReduceMean", "ReduceSum",
    "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceProd", "Concat", "Split", "Slice", "Gather", "Tile", "Expand", "Flatten",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Pad", "Resize",
    "Shape", "Constant", "ConstantOfShape", "GroupNormalization", "MeanVarianceNormalization", "Einsum",
    "CumSum", "TopK", "LRN", "Trilu", "GridSample", "ReverseSequence", "ScatterElements", "If", "LSTM",
]  # fmt: skip


def outputs(model: onnx.ModelProto, seed: int, batch: int) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, random_inputs(model, seed, batch))


def is_dynamic(model: onnx.ModelProto) -> bool:
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_param)


def assert_valid(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for batch in (2, 3) if is_dynamic(model) else (2,):
        for value, info in zip(outputs(model, 1, batch), model.graph.output, strict=True):
            declared = [dim.dim_value or batch for dim in info.type.tensor_type.shape.dim]
            assert list(value.shape) == declared
            assert np.isfinite(value).all()


@settings(max_examples=100, phases=[Phase.generate])
@given(models())
def test_every_drawn_model_is_valid_and_runs(model):
    assert_valid(model)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_makes_valid_models(name):
    for seed in range(3):
        assert_valid(random_model(seed, including=name))


def test_three_hundred_models_draw_every_op_and_every_opset():
    drawn: Counter[str] = Counter()
    opsets = set()
    for seed in range(300):
        model = random_model(seed)
        opsets.add(model.opset_import[0].version)
        drawn.update(node.op_type for node in model.graph.node)
    assert sorted(set(PROMISED) - drawn.keys()) == []
    assert opsets == set(OPSETS)


def test_models_come_with_all_that_exporters_do_to_weights():
    """Shared initializers, weights behind nodes, initializers that are inputs, several inputs and outputs."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        graph = random_model(seed).graph
        names = {tensor.name for tensor in graph.initializer}
        weights = {tensor.name for tensor in graph.initializer if tensor.name.startswith("weight")}
        reads = Counter(name for node in graph.node for name in node.input)
        seen["shared"] += any(reads[name] > 1 for name in weights)
        seen["overridable"] += any(value.name in names for value in graph.input)
        seen["inputs"] += len([value for value in graph.input if value.name not in names]) > 1
        seen["outputs"] += len(graph.output) > 1
        for node in graph.node:
            if node.input and node.input[0] in weights:
                seen[node.op_type] += 1
    wanted = ["shared", "overridable", "inputs", "outputs", "Identity", "Transpose", "Reshape", "Cast", "Mul"]
    assert [what for what in wanted if seen[what] < 3] == []


def test_no_parameter_is_zero_and_variances_are_positive():
    for seed in range(100):
        graph = random_model(seed).graph
        tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for name, array in tensors.items():
            if name.startswith(("weight", "scale", "shift", "mean", "var", "bias")):
                assert np.all(array != 0) or array.dtype.kind in "iu", name
        for node in graph.node:
            if node.op_type == "BatchNormalization" and node.input[4] in tensors:
                assert np.all(tensors[node.input[4]] > 0)


def test_activations_stay_of_order_one_and_outputs_follow_the_inputs():
    """Else a wrong channel would not show: nearly all outputs lie in 1e-2..1e3 and differ between inputs."""
    sizes, changes = [], []
    for seed in range(150):
        model = random_model(seed)
        for first, second in zip(outputs(model, 1, 2), outputs(model, 2, 2), strict=True):
            sizes.append(np.abs(first).max())
            changes.append(np.abs(first - second).max() / np.abs(first).max())
    assert np.mean([1e-2 < size < 1e3 for size in sizes]) > 0.99
    assert np.mean([change > 1e-3 for change in changes]) > 0.9


def test_the_same_seed_makes_the_same_model():
    assert random_model(5).SerializeToString() == random_model(5).SerializeToString()
    assert random_model(5).SerializeToString() != random_model(6).SerializeToString()


@given(st.data())
def test_a_model_drawn_to_include_a_block_holds_its_op(data):
    model = data.draw(models(including="GlobalMaxPool", most=4))
    assert "GlobalMaxPool" in {node.op_type for node in model.graph.node}


GROUPS = [("a", 1), ("b", 2), ("c", 7), ("d", 12)]


def assert_plan(plan: dict[str, tuple[int, ...]]) -> None:
    assert list(plan) == [name for name, _ in GROUPS]
    for name, size in GROUPS:
        assert plan[name], name
        assert list(plan[name]) == sorted(set(plan[name]))
        assert set(plan[name]) <= set(range(size))


@given(plans(GROUPS))
def test_a_plan_keeps_something_of_every_group(plan):
    assert_plan(plan)


def test_random_plans_keep_all_one_or_some():
    counts = set()
    for seed in range(100):
        plan = random_plan(seed, GROUPS)
        assert_plan(plan)
        counts.add(len(plan["c"]))
    assert counts >= {1, 3, 5, 7}
