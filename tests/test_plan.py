import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_models import conv_net
from text_nets import analysed

from onnxprune import groups, model
from onnxprune.errors import PlanError
from onnxprune.groups import Groups
from onnxprune.plan import FORMAT, Plan, check, load

KEPT = {"first": np.asarray([0, 3, 5]), "second": np.asarray([15])}


@pytest.fixture
def found() -> Groups:
    return analysed(conv_net(8))


@pytest.fixture
def document(found: Groups) -> dict[str, Any]:
    return Plan(KEPT).to_json(found)


def written(folder: Path, document: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_plan_survives_its_file(found: Groups, document: dict[str, Any], tmp_path: Path):
    again = load(written(tmp_path, document), found)
    assert {name: kept.tolist() for name, kept in again.kept.items()} == {"first": [0, 3, 5], "second": [15]}
    assert again.to_json(found) == document


def test_the_document_names_every_group_its_size_and_what_stays(document: dict[str, Any]):
    assert document["format"] == FORMAT
    told = [{key: group[key] for key in ("name", "size", "kept", "weights")} for group in document["groups"]]
    assert told == [
        {"name": "first", "size": 8, "kept": [0, 3, 5], "weights": {"16x8x3x3": 1, "8x3x3x3": 1}},
        {"name": "second", "size": 16, "kept": [15], "weights": {"16x3": 1, "16x8x3x3": 1}},
    ]


def test_groups_that_a_plan_does_not_name_keep_all(found: Groups, document: dict[str, Any], tmp_path: Path):
    partial = Plan({"second": KEPT["second"]})
    assert partial.counts(found) == [8, 1]
    assert partial.to_json(found)["groups"][0]["kept"] == list(range(8))
    del document["groups"][0]
    assert load(written(tmp_path, document), found).counts(found) == [8, 1]


def test_other_weights_are_the_same_model_to_a_plan(document: dict[str, Any], tmp_path: Path):
    """A plan fits the model after more training."""
    assert load(written(tmp_path, document), analysed(conv_net(8, seed=7))).kept


def test_a_plan_of_another_model_is_refused(document: dict[str, Any], tmp_path: Path):
    with pytest.raises(PlanError, match=r"plan.json: was made for another model"):
        load(written(tmp_path, document), analysed(conv_net(9)))


def test_a_refusal_names_the_group_that_the_model_has_not(document: dict[str, Any], tmp_path: Path):
    said = "the plan has a group of 8 channels 'first' on weights 16x8x3x3, 8x3x3x3, the model none like it"
    with pytest.raises(PlanError, match=said):
        load(written(tmp_path, document), analysed(conv_net(9)))


def test_a_plan_without_the_model_it_was_made_for_is_refused(
    document: dict[str, Any], found: Groups, tmp_path: Path
):
    del document["model"]
    with pytest.raises(PlanError, match="malformed"):
        load(written(tmp_path, document), found)


def test_a_group_that_this_export_keeps_whole_is_named(document: dict[str, Any], tmp_path: Path):
    """The same network, but for an op in the way that has no rule."""
    proto = conv_net(8)
    proto.graph.node.insert(4, onnx.helper.make_node("Mix", ["d"], ["m"], name="mix", domain="acme"))
    proto.graph.node[5].input[0] = "m"
    proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    kept_whole = groups.find(model.load(proto))
    assert [group.name for group in kept_whole] == ["first"]
    with pytest.raises(PlanError, match=r"closes channels of .* 'second' .* which this export .* keeps whole"):
        load(written(tmp_path, document), kept_whole)
    document["groups"][1]["kept"] = list(range(16))
    assert list(load(written(tmp_path, document), kept_whole).kept) == ["first"]


def test_a_group_that_the_check_froze_drops_out_of_the_plan(document: dict[str, Any], tmp_path: Path):
    loaded = groups.find(model.load(conv_net(8)), {"first": "found out"})
    assert list(load(written(tmp_path, document), loaded).kept) == ["second"]


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", f"is no {FORMAT}"),
        ('{"format": "onnxprune-plan-0"}', f"is no {FORMAT}"),
        ('"text"', f"is no {FORMAT}"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(content: str, saying: str, found: Groups, tmp_path: Path):
    with pytest.raises(PlanError, match=saying):
        load(written(tmp_path, content), found)


def test_bytes_that_are_no_text_are_refused(found: Groups, tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PlanError, match="is not JSON"):
        load(path, found)


def test_a_missing_plan_is_refused(found: Groups, tmp_path: Path):
    with pytest.raises(PlanError, match=r"none\.json: cannot be read \(No such file"):
        load(tmp_path / "none.json", found)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "first"},
        {"kept": [0]},
        {"name": "first", "size": 8, "kept": [0]},
        {"name": "first", "kept": "all"},
        {"name": "first", "kept": [0, None]},
        {"name": "first", "kept": [[0], [1, 2]]},
        {"name": "first", "kept": {"0": 1}},
        {"name": "first", "kept": [2**70]},
        {"name": "first", "kept": [0.5, 1.5]},
        {"name": "first", "kept": [True, False]},
        7,
    ],
)
def test_malformed_groups_are_refused(entry: Any, document: dict[str, Any], found: Groups, tmp_path: Path):
    whole = isinstance(entry, dict) and "name" in entry and "kept" in entry and "size" not in entry
    document["groups"] = [{**document["groups"][0], **entry} if whole else entry]
    with pytest.raises(PlanError):
        load(written(tmp_path, document), found)


def test_a_group_named_twice_is_refused(document: dict[str, Any], found: Groups, tmp_path: Path):
    document["groups"] += [{**document["groups"][0], "kept": [1]}]
    with pytest.raises(PlanError, match="its groups are malformed"):
        load(written(tmp_path, document), found)


@pytest.mark.parametrize("groups", [None, {}, "first", 3])
def test_groups_that_are_no_list_are_refused(
    groups: Any, document: dict[str, Any], found: Groups, tmp_path: Path
):
    with pytest.raises(PlanError):
        load(written(tmp_path, document | {"groups": groups}), found)


@pytest.mark.parametrize(
    ("kept", "saying"),
    [
        ([], "must keep at least one channel"),
        ([1, 0], "in ascending order"),
        ([1, 1], "in ascending order"),
        ([-1, 2], "has channels 0 to 7"),
        ([0, 8], "has channels 0 to 7, but 8 is kept"),
        ([[0, 1]], "in ascending order"),
    ],
)
def test_a_kept_set_that_does_not_fit_its_group_is_refused(kept: list[Any], saying: str, found: Groups):
    with pytest.raises(PlanError, match=saying):
        check(Plan({"first": np.asarray(kept, dtype=np.int64)}), found)


def test_an_unknown_group_is_refused(found: Groups):
    with pytest.raises(PlanError, match="'third' is not in the model or cannot be pruned"):
        check(Plan({"third": np.asarray([0])}), found)


def test_a_message_names_the_channel_that_does_not_exist(found: Groups):
    with pytest.raises(PlanError, match="but -3 is kept"):
        check(Plan({"first": np.asarray([-3, 2])}), found)
