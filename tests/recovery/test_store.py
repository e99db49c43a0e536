"""Activations of all batches, in memory or on disk."""

import errno
from pathlib import Path

import numpy as np
import pytest

from onnxprune.errors import OutputError
from onnxprune.recovery.store import Store


def values(seed: int, *names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(3, 4)).astype(np.float32) for name in names}


@pytest.mark.parametrize("room", [0, 100, 1 << 30], ids=["on disk", "on both", "in memory"])
def test_what_is_put_in_comes_out(room: int):
    with Store(room) as store:
        for number in range(3):
            store.step(number, values(number, "a", "b", "c"), ["a", "b"])
        assert len(store) == 3
        for number in range(3):
            expected = values(number, "a", "b", "c")
            assert store[number].keys() == {"a", "b"}
            assert all(np.array_equal(store[number][name], expected[name]) for name in "ab")
            assert store[number]["a"].dtype == np.float32


@pytest.mark.parametrize(
    "value", [np.array(True), np.zeros((0, 3)), np.float16([1.5]), np.array(["a", "bc"], dtype=object), np.int64(3)]
)
def test_values_of_any_type_come_back_from_disk(value: np.ndarray):
    with Store(0) as store:
        store.step(0, {"a": np.asarray(value)}, ["a"])
        found = store[0]["a"]
        assert found.dtype == np.asarray(value).dtype and np.array_equal(found, value)


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_a_step_lets_go_of_what_is_not_live(room: int):
    with Store(room) as store:
        store.step(0, values(0, "a", "b"), ["a", "b"])
        store.step(0, values(1, "c", "d"), ["b", "c"])
        assert store[0].keys() == {"b", "c"}
        assert np.array_equal(store[0]["b"], values(0, "a", "b")["b"]), "what is there already stays"
        if store.folder is not None:
            assert len(list(store.folder.iterdir())) == 2


def test_room_is_given_back():
    with Store(2 * 48) as store:
        for step in range(20):
            store.step(0, values(step, f"x{step}", f"y{step}"), [f"x{step}", f"y{step}"])
        assert store.folder is None and store.used == 2 * 48


def test_nothing_more_than_the_room_stays_in_memory():
    with Store(5 * 48) as store:
        for number in range(50):
            store.step(number, values(number, "a"), ["a"])
        held = sum(v.nbytes for batch in store.batches.values() for v in batch.values() if not isinstance(v, Path))
        assert held == store.used == 5 * 48


def test_a_part_of_a_larger_array_does_not_keep_the_whole():
    large = np.zeros((1000, 4), dtype=np.float32)
    with Store() as store:
        store.step(0, {"a": large[:2]}, ["a"])
        base = store[0]["a"].base
        assert base is None or base.nbytes == store[0]["a"].nbytes


@pytest.mark.parametrize("fails", [False, True])
def test_the_folder_is_gone_afterwards(fails: bool):
    store = Store(0)
    try:
        with store:
            store.step(0, values(0, "a"), ["a"])
            folder = store.folder
            assert folder is not None and folder.is_dir()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not folder.exists()


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch):
    def full(path: object, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with Store(0) as store, pytest.raises(OutputError, match=r"No space left.*TMPDIR") as told:
        store.step(0, values(0, "a"), ["a"])
    assert "\n" not in str(told.value)


def test_a_place_for_files_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with Store(0) as store, pytest.raises(OutputError, match="TMPDIR"):
        store.step(0, values(0, "a"), ["a"])
