import gc

import pytest
from small_models import conv_net
from text_nets import analysed

from onnxprune import groups
from onnxprune.garbage import uncollected


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


def test_an_analysis_makes_no_search(monkeypatch: pytest.MonkeyPatch):
    searches = []
    prepare = groups.prepare

    def watched(model):
        assert not gc.isenabled()
        searches.append(1)
        return prepare(model)

    monkeypatch.setattr(groups, "prepare", watched)
    analysed(conv_net())
    assert searches == [1]
    assert gc.isenabled()
