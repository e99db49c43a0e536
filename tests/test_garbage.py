import gc
import weakref
from collections.abc import Callable
from functools import partial

import onnx
import pytest
from small_models import conv_net

from onnxprune import gate, groups, inspect, proving, slim
from onnxprune.errors import PlanError
from onnxprune.garbage import uncollected
from onnxprune.model import Model
from onnxprune.prepare import prepare
from onnxprune.shapes import Shapes
from onnxprune.verify import Verification


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_for_garbage_is_as_it_was_before(enabled: bool):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="as well"), uncollected():
            raise ValueError("after an error as well")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("verb", [gate, inspect, partial(slim, ratio=0.5)], ids=["gate", "inspect", "slim"])
def test_an_analysis_makes_no_search(verb: Callable[[onnx.ModelProto], object], monkeypatch: pytest.MonkeyPatch):
    searches = []
    monkeypatch.setattr(groups, "prepare", lambda model: searches.append(gc.isenabled()) or prepare(model))
    verb(conv_net())
    assert searches == [False]
    assert gc.isenabled()


def test_attempts_that_failed_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    """Each of them leaves a graph, which only the search can find."""
    seen: list[weakref.ref] = []

    def watched(model: Model) -> Shapes:
        assert sum(ref() is not None for ref in seen) <= 1
        seen.append(weakref.ref(model.graph))
        return prepare(model)

    monkeypatch.setattr(groups, "prepare", watched)
    monkeypatch.setattr(proving, "compare", lambda *_: Verification(1.0, 1e-5, 1))
    with pytest.raises(PlanError):
        slim(conv_net(), ratio=0.5)
    assert len(seen) > 2
