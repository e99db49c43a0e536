"""Batches hold what the data holds, wherever they are made."""

import os

import numpy as np
import pytest
import torch

from onnxprune.errors import DataError, TrainingError
from onnxprune.training.arrays import from_arrays
from onnxprune.training.augmentation import Augmentation
from onnxprune.training.batches import Batches, Loaded, drawn
from onnxprune.training.samples import Column, Data

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # torch's default


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dims", [(None, 3, 8, 6), (None, 8, 6, 3)])
def test_tensors_are_what_numpy_makes_of_the_pixels(dims, channels_last):
    images = RNG.integers(0, 256, (5, 8, 6, 3), np.uint8)
    data = from_arrays({"x": images, "y": np.arange(5)}, [("i", np.float32, dims)])
    batch = Batches(data, CPU, channels_last).take(np.asarray([3, 1]))
    np.testing.assert_allclose(batch.inputs[0].numpy(), data.batch([3, 1])[0], atol=1e-6)
    assert batch.inputs[0].dtype == torch.float32
    assert batch.labels.tolist() == [3, 1]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.inputs[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_samples_come_once_and_in_order(workers):
    data = from_arrays({"x": np.arange(7.0)[:, None]}, [("x", np.float32, (None, 1))])
    batches = Batches(data, CPU, workers=workers)
    assert [b.inputs[0].flatten().tolist() for b in batches.in_order(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [b.inputs[0].flatten().tolist() for b in batches.in_order(3, limit=4)] == [[0, 1, 2], [3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_sampled_batches_differ_from_one_another_and_repeat_with_their_seed(workers):
    data = from_arrays({"x": np.arange(9.0)[:, None]}, [("x", np.float32, (None, 1))])
    batches = Batches(data, CPU, workers=workers)
    first, second = ([b.inputs[0].flatten().tolist() for b in batches.sampled(2, 3, 5)] for _ in range(2))
    assert first == second
    assert len({number for rows in first for number in rows}) == 6


def images_and_labels() -> Data:
    images = RNG.integers(0, 256, (40, 16, 16, 3), np.uint8)
    return from_arrays({"x": images, "y": np.arange(40) % 10}, [("i", np.float32, (None, 3, 16, 16))])


AUGMENTATION = Augmentation.of("crop,flip,randaugment,mixup", 10)


def run(data, workers, steps, mine=slice(None), augmentation=AUGMENTATION):
    draws = ((step, rows[mine]) for step, rows in drawn(len(data), 8, 3, steps))
    return list(Batches(data, CPU, workers=workers).drawn(draws, augmentation, seed=3))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(workers):
    data = images_and_labels()
    for alone, other in zip(run(data, 0, range(12)), run(data, workers, range(12)), strict=True):
        torch.testing.assert_close(alone.inputs, other.inputs, rtol=0, atol=0)
        torch.testing.assert_close(alone.labels, other.labels, rtol=0, atol=0)


def test_batches_are_the_same_where_a_run_is_resumed():
    data = images_and_labels()
    for alone, other in zip(run(data, 0, range(7, 12)), run(data, 0, range(12))[7:], strict=True):
        torch.testing.assert_close(alone.inputs, other.inputs, rtol=0, atol=0)
        torch.testing.assert_close(alone.labels, other.labels, rtol=0, atol=0)


def test_samples_are_the_same_for_any_number_of_processes():
    data, augmentation = images_and_labels(), Augmentation.of("crop,flip,randaugment")
    one = run(data, 0, range(3), augmentation=augmentation)
    shares = [run(data, 0, range(3), slice(k, None, 2), augmentation) for k in range(2)]
    for step, batch in enumerate(one):
        for k in range(2):
            torch.testing.assert_close(batch.inputs[0][k::2], shares[k][step].inputs[0], rtol=0, atol=0)


def test_an_epoch_later_a_sample_is_augmented_otherwise():
    data = images_and_labels()
    rows = np.arange(8)
    batches = Batches(data, CPU)
    first, second = batches.drawn([(0, rows), (5, rows)], Augmentation.of("crop,flip"))
    assert not torch.equal(first.inputs[0], second.inputs[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_randomness_is_left_alone(workers):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    run(images_and_labels(), workers, range(2))
    torch.testing.assert_close(torch.rand(3), wanted, rtol=0, atol=0)


def names_and_sums(samples):
    """What a task's collate may make: anything nested, of the inputs and labels as the data holds them."""
    sums = torch.stack([inputs[0].sum() for inputs, _ in samples])
    return {"sums": sums, "pair": (torch.stack([label for _, label in samples]), [torch.ones(1)])}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_task_collates_the_labels_of_each_batch(workers):
    data = images_and_labels()
    batches = Batches(data, CPU, workers=workers, collate=names_and_sums)
    for batch in (*batches.in_order(25, limit=25), batches.take(np.arange(25))):
        assert batch.labels["pair"][0].tolist() == data.labels[:25].tolist()
        assert batch.labels["sums"].tolist() == data.stored(range(25))[0].sum((1, 2, 3)).tolist()


def test_without_labels_a_task_collates_none():
    data = from_arrays({"x": np.zeros((2, 1))}, [("x", np.float32, (None, 1))])
    seen = []
    Batches(data, CPU, collate=lambda samples: seen.extend(samples) or torch.ones(1)).take(np.arange(2))
    assert [label for _, label in seen] == [None, None]


def test_mixup_of_what_a_task_collates_is_refused():
    batches = Batches(images_and_labels(), CPU, collate=names_and_sums)
    with pytest.raises(TrainingError, match="mixup cannot mix labels that a task collates"):
        next(batches.drawn(drawn(40, 8, 3, range(1)), AUGMENTATION))


def test_pinned_labels_keep_the_form_a_task_gave_them(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    loaded = Loaded((0, np.arange(1)), (torch.zeros(1),), {"pair": (torch.zeros(1), [torch.ones(1)])})
    pinned = loaded.pin_memory()
    assert pinned.labels == {"pair": (torch.ones(1), [2 * torch.ones(1)])}
    assert pinned.inputs == (torch.ones(1),)
    assert Loaded((0, np.arange(1)), (), None).pin_memory().labels is None


class Failing:
    """A column whose row 5 cannot be read, or takes its process with it."""

    shape, dtype = (8, 1), np.dtype(np.float32)

    def __init__(self, dies: bool) -> None:
        self.dies = dies

    def __len__(self):
        return 8

    def __getitem__(self, rows):
        if 5 in rows and self.dies:
            os._exit(1)
        if 5 in rows:
            raise DataError("row 5: cannot be read: remove it")
        return np.zeros((len(rows), 1), np.float32)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_comes_out_in_one_line(workers):
    data = Data((Column("x", Failing(dies=False)),), None, np.arange(8), "here")
    batches = Batches(data, CPU, workers=workers).in_order(2)
    with pytest.raises(DataError, match=r"^row 5: cannot be read: remove it$"):
        list(batches)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its signal may come in a __del__
def test_a_worker_that_dies_is_told_in_one_line():
    data = Data((Column("x", Failing(dies=True)),), None, np.arange(8), "here")
    with pytest.raises(DataError, match="a worker that reads the data died") as caught:
        list(Batches(data, CPU, workers=1).in_order(2))
    assert "\n" not in str(caught.value)


def test_batches_may_be_left_before_their_end():
    data = images_and_labels()
    batches = Batches(data, CPU, workers=2).drawn(drawn(len(data), 8, 3, range(1000)))
    next(batches)
    batches.close()


def test_an_epoch_draws_every_sample_at_most_once_and_resumes_alike():
    steps = dict(drawn(10, 3, 0, range(9)))
    for epoch in range(3):
        seen = np.concatenate([steps[3 * epoch + i] for i in range(3)])
        assert len(set(seen.tolist())) == 9
    assert not np.array_equal(steps[0], steps[3])
    for step, rows in drawn(10, 3, 0, range(4, 9)):
        np.testing.assert_array_equal(rows, steps[step])


def test_fewer_samples_than_a_batch_are_one_batch():
    assert [sorted(rows.tolist()) for _, rows in drawn(3, 8, 0, range(2))] == [[0, 1, 2], [0, 1, 2]]
