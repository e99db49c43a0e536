"""Batches hold what the data holds, wherever they are made."""

import numpy as np
import pytest
import torch

from onnxprune.errors import DataError, TrainingError
from onnxprune.training.batches import Batches, check_augmentable, crop_flip, drawn, prefetched
from onnxprune.training.data import from_arrays

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")


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


def test_all_samples_come_once_and_in_order():
    data = from_arrays({"x": np.arange(7.0)[:, None]}, [("x", np.float32, (None, 1))])
    seen = [batch.inputs[0].flatten().tolist() for batch in Batches(data, CPU).in_order(3)]
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_crop_is_a_shifted_part_of_the_image_mirrored_half_the_time():
    images = torch.from_numpy(RNG.integers(1, 256, (200, 16, 16, 3), np.uint8))
    crops = crop_flip(images, np.random.default_rng(0))
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    mirrored = 0
    for image, crop in zip(padded, crops, strict=True):
        windows = image.unfold(0, 16, 1).unfold(1, 16, 1).permute(0, 1, 3, 4, 2).reshape(-1, 16, 16, 3)
        straight = (windows == crop).flatten(1).all(1).any()
        flipped = (windows.flip(2) == crop).flatten(1).all(1).any()
        assert straight or flipped
        mirrored += int(flipped)
    assert 70 < mirrored < 130


def test_augmentation_is_the_same_in_either_layout():
    floats = RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)
    first = from_arrays({"x": floats}, [("x", np.float32, (None, 3, 8, 8))])
    last = from_arrays({"x": floats.transpose(0, 2, 3, 1)}, [("x", np.float32, (None, 8, 8, 3))])
    a, b = (Batches(d, CPU).take(np.arange(4), np.random.default_rng(1)).inputs[0] for d in (first, last))
    torch.testing.assert_close(a, b.movedim(-1, 1))
    assert not torch.equal(a, torch.from_numpy(floats))


def test_only_images_are_augmented():
    data = from_arrays({"x": np.zeros((3, 5), np.float32)}, [("x", np.float32, (None, 5))])
    with pytest.raises(TrainingError, match="needs an image input"):
        check_augmentable(data)


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


def test_prefetching_keeps_the_order_and_passes_errors_on():
    def make(key):
        if key == 3:
            raise DataError("no")
        return key

    batches = prefetched(make, range(5))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError):
        next(batches)
