from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx_text import parsed
from small_models import conv_net
from text_nets import net, same_weights

from onnxprune import model
from onnxprune.errors import ModelError
from onnxprune.intake import without_weights


@pytest.mark.parametrize("opset", [1, 6])
def test_opsets_before_7_are_refused(opset: int):
    with pytest.raises(
        ModelError, match=f"opset {opset} is older than 7; raise it with onnx.version_converter"
    ):
        model.load(parsed("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }", opset=opset))


def test_opset_7_is_read():
    assert (
        model.load(parsed("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }", opset=7)).graph.opset == 7
    )


# ---- weights in other files


@pytest.fixture
def external(tmp_path: Path) -> Iterator[Path]:
    """A model in a folder of its own, its weights in a second file there."""
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(conv_net(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("elsewhere", [".", "inside", ".."])
def test_external_data_is_read_from_beside_the_model(
    external: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(external.parents[1] / elsewhere)
    assert same_weights(model.to_proto(model.load(external)), conv_net())


def test_external_data_is_found_by_a_relative_path(external: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(external.parents[1])
    assert len(model.load(Path("inside/model.onnx")).graph.nodes) == 7


def test_loading_keeps_large_weights_out_of_the_checkers_copy():
    proto = net("net (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=(64, 64))
    light = without_weights(proto)
    assert not light.graph.initializer
    assert light.ByteSize() < 300
    onnx.checker.check_model(light)


def test_a_node_name_that_is_no_text_is_refused(tmp_path):
    proto = net("net (float[N,3] x) => (float[N,2] y) { y = Gemm(x, w) }", w=(3, 2))
    proto.graph.node[0].name = "layername"
    path = tmp_path / "damaged.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"layername", b"la\xe1ername"))
    with pytest.raises(ModelError, match=r"damaged.onnx: damaged \(the name of a node is no text\)"):
        model.load(path)
