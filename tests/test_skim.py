from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from small_models import conv_net
from strategies import random_model

from onnxprune import apart
from onnxprune.apart import take_apart
from onnxprune.skim import skim


@pytest.fixture(autouse=True)
def all_weights_are_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart, "LARGE", 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_skimmed_file_is_what_protobuf_reads(seed: int, tmp_path: Path):
    proto = random_model(seed)
    onnx.save(proto, tmp_path / "model.onnx")
    found, expected = skim(tmp_path / "model.onnx"), take_apart(proto)
    assert found is not None
    assert found.light == expected.light
    assert found.weights.keys() == expected.weights.keys()
    assert found.whole() == proto


def test_weights_are_ready_to_compute_with(tmp_path: Path):
    proto = conv_net()
    proto.producer_name = "shifts the weights by an odd number of bytes"
    onnx.save(proto, tmp_path / "model.onnx")
    found = skim(tmp_path / "model.onnx")
    assert found is not None
    assert all(values.flags.aligned and values.flags.writeable for values in found.weights.values())


def test_a_damaged_file_is_never_read_as_something_else(tmp_path: Path):
    """What is skimmed at all is what protobuf reads, whichever bytes are wrong or missing."""
    path, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    whole = conv_net().SerializeToString()
    skimmed = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(damaged), rng.integers(0, 3)):
            damaged[position] = rng.integers(0, 256)
        damaged = damaged[: len(damaged) - int(rng.integers(0, 40)) * int(rng.integers(0, 2))]
        path.write_bytes(damaged)
        found = skim(path)
        try:
            expected = onnx.ModelProto.FromString(bytes(damaged))
        except DecodeError:
            assert found is None
            continue
        if found is not None:
            skimmed += 1
            assert found.whole().SerializeToString() == expected.SerializeToString()
    assert skimmed > 500


def test_a_graph_in_two_parts_is_left_to_protobuf(tmp_path: Path):
    path = tmp_path / "model.onnx"
    more = onnx.ModelProto(graph=onnx.GraphProto(doc_string="more of it")).SerializeToString()
    path.write_bytes(conv_net().SerializeToString() + more)
    assert skim(path) is None


@pytest.mark.parametrize("content", [b"", b"\x00", b"no model at all", b"\x3a" + 10 * b"\xff" + b"\x01"])
def test_other_files_are_left_to_protobuf(content: bytes, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert skim(path) is None
