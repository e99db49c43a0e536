"""The law: for every graph and every plan, the gated model with closed gates and the slim model are one function."""

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from blocks import BLOCKS
from hypothesis import given, settings
from strategies import describe, models, plans, random_model, random_plan

from onnxprune import gates, groups, model, rewrite
from onnxprune.plan import Plan, check
from onnxprune.shapes.foreign import taught
from onnxprune.verify import Verification
from onnxprune.verify import verify as compare


def both_sides(proto: onnx.ModelProto, kept: dict[str, tuple[int, ...]]) -> tuple[Verification, Verification]:
    """(all gates open against the original, the plan's gates closed against the slim model), without the second net."""
    loaded = model.load(proto)
    found = groups.find(loaded)
    plan = check(Plan({name: np.asarray(indices, dtype=np.int64) for name, indices in kept.items()}), found)
    gates.insert(found, {})
    opened = compare(proto, model.to_proto(loaded))
    gates.strip(loaded)
    gates.insert(found, plan.latents(found))
    gated = model.to_proto(loaded)
    gates.strip(loaded)
    rewrite.apply(found, plan)
    slim = model.to_proto(loaded)
    with taught(slim, to_checker=True):
        onnx.checker.check_model(slim, full_check=True)
    return opened, compare(gated, slim)


def sizes(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(group.name, group.size) for group in groups.find(model.load(proto))]


@settings(max_examples=100)
@given(models(), st.data())
def test_gated_and_slim_model_are_one_function(proto: onnx.ModelProto, data: st.DataObject) -> None:
    plan = data.draw(plans(sizes(proto)))
    opened, closed = both_sides(proto, plan)
    assert opened.equal, f"open gates change the function by {opened.max_rel_error:.1e}\n{describe(proto)}"
    assert closed.equal, f"gated and slim differ by {closed.max_rel_error:.1e}\n{describe(proto)}"


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_the_law_holds_around_every_kind_of_block(block: str) -> None:
    proto = random_model(1, including=block)
    opened, closed = both_sides(proto, random_plan(1, sizes(proto)))
    assert opened.equal and closed.equal, describe(proto)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 3000, 250))
def test_the_law_holds_on_thousands_of_random_graphs(start: int) -> None:
    for seed in range(start, start + 250):
        proto = random_model(seed)
        opened, closed = both_sides(proto, random_plan(seed, sizes(proto)))
        assert opened.equal and closed.equal, f"seed {seed}\n{describe(proto)}"


def test_most_random_graphs_can_be_pruned() -> None:
    prunable = [bool(sizes(random_model(seed))) for seed in range(60)]
    assert np.mean(prunable) > 0.7
