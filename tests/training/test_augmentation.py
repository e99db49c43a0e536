"""What is done to training samples, and what cannot be done to them."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnxprune.errors import TrainingError
from onnxprune.training.arrays import from_arrays
from onnxprune.training.augmentation import IGNORED, PER_SAMPLE, Augmentation

RNG = np.random.default_rng(0)


def pixels(n=6, size=(16, 16), **more):
    images = RNG.integers(1, 256, (n, *size, 3), np.uint8)
    return from_arrays({"x": images, **more}, [("i", np.float32, (None, 3, *size))])


def floats(n=6, last=False, **more):
    images = RNG.normal(size=(n, 3, 16, 16)).astype(np.float32)
    shape = (None, 16, 16, 3) if last else (None, 3, 16, 16)
    return from_arrays(
        {"x": images.transpose(0, 2, 3, 1) if last else images, **more}, [("i", np.float32, shape)]
    )


def samples(text, data, seeds=None, classes=None):
    augmentation, rows = Augmentation.of(text, classes), np.arange(len(data))
    augmentation.check(data)
    seeds = range(len(data)) if seeds is None else seeds
    return augmentation.samples(data.stored(rows), data.labels_of(rows), data, seeds)


@pytest.mark.parametrize("text", ["crop-flip", "flip,crop", " crop , flip ", "crop-flip,flip"])
def test_names_come_in_any_order(text):
    assert Augmentation.of(text) == Augmentation(("crop", "flip"))


def test_none_is_none():
    assert Augmentation.of("none") is None


@pytest.mark.parametrize("text", ["", "crop,mix", "none,crop", "Flip"])
def test_an_unknown_name_is_refused(text):
    with pytest.raises(TrainingError, match="is unknown: give some of none, crop"):
        Augmentation.of(text)


def test_a_crop_is_a_shifted_part_of_the_image_mirrored_half_the_time():
    data = pixels(200)
    (crops,), _ = samples("crop,flip", data)
    images = torch.from_numpy(data.stored(range(200))[0])
    padded, mirrored, shifts = F.pad(images, (0, 0, 2, 2, 2, 2)), 0, set()
    for image, crop in zip(padded, crops, strict=True):
        windows = image.unfold(0, 16, 1).unfold(1, 16, 1).permute(0, 1, 3, 4, 2).reshape(-1, 16, 16, 3)
        straight = (windows == crop).flatten(1).all(1)
        flipped = (windows.flip(2) == crop).flatten(1).all(1)
        assert straight.any() or flipped.any()
        mirrored += int(flipped.any())
        shifts.add(int((straight | flipped).nonzero()[0]))
    assert 70 < mirrored < 130
    assert len(shifts) == 25


@pytest.mark.parametrize("text", ["crop,flip", "resized-crop"])
def test_it_is_the_same_in_either_layout(text):
    first = floats()
    last = from_arrays(
        {"x": first.columns[0].values.transpose(0, 2, 3, 1)}, [("i", np.float32, (None, 16, 16, 3))]
    )
    (a,), _ = samples(text, first)
    (b,), _ = samples(text, last)
    torch.testing.assert_close(a, b.movedim(-1, 1))
    assert not torch.equal(a, torch.from_numpy(first.columns[0].values))


@pytest.mark.parametrize("text", PER_SAMPLE)
@pytest.mark.parametrize("size", [(16, 16), (24, 8)])
def test_pixels_stay_pixels_of_their_size_and_a_sample_depends_on_its_own_seed_alone(text, size):
    data = pixels(6, size)
    (whole,), _ = samples(text, data, seeds=[7, 1, 2, 3, 4, 5])
    (part,), _ = samples(text, data.take([3, 0]), seeds=[3, 7])
    (other,), _ = samples(text, data, seeds=[17, 11, 12, 13, 14, 15])
    assert (whole.dtype, whole.shape) == (torch.uint8, (6, *size, 3))
    torch.testing.assert_close(part, whole[[3, 0]], rtol=0, atol=0)
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("text", ["crop", "flip", "crop,flip,resized-crop"])
@pytest.mark.parametrize("make", [pixels, floats])
def test_masks_move_with_their_images(text, make):
    classes = RNG.integers(1, 250, (6, 16, 16))
    levels = np.stack([classes] * 3, axis=-1).astype(np.uint8)
    values = levels if make is pixels else levels.transpose(0, 3, 1, 2).astype(np.float32)
    data = from_arrays({"x": values, "y": classes}, [("i", np.float32, (None, 3, 16, 16))])
    (images,), masks = samples(text, data)
    seen = images[..., 0] if make is pixels else images[:, 0]
    assert masks.dtype == torch.int64
    assert not torch.equal(masks, torch.from_numpy(classes))
    if "resized" in text:  # images are interpolated, masks are not
        assert set(masks.unique().tolist()) <= {IGNORED, *classes.flatten().tolist()}
    else:
        torch.testing.assert_close(torch.where(masks == IGNORED, 0, masks), seen.long())
        assert (masks == IGNORED).any() == ("crop" in text)


def test_two_images_of_a_sample_move_together_and_other_inputs_stay():
    left = RNG.integers(1, 256, (6, 16, 16, 3), np.uint8)
    ids = np.arange(6)[:, None]
    inputs = [
        ("a", np.float32, (None, 3, 16, 16)),
        ("ids", np.int64, (None, 1)),
        ("b", np.float32, (None, 3, 16, 16)),
    ]
    data = from_arrays({"a": left, "b": left, "ids": ids}, inputs)
    (a, seen, b), _ = samples("crop,flip", data)
    torch.testing.assert_close(a, b)
    assert seen.tolist() == ids.tolist()
    assert not torch.equal(a, torch.from_numpy(left))


def mixed(data, classes=None, text="mixup", seed=5):
    augmentation, rows = Augmentation.of(text, classes), np.arange(len(data))
    augmentation.check(data)
    inputs = tuple(torch.from_numpy(values) for values in data.batch(rows))
    labels = data.labels_of(rows)
    return inputs, augmentation.mixed(inputs, None if labels is None else torch.from_numpy(labels), data, seed)


def test_mixup_mixes_inputs_and_class_numbers_in_one_proportion():
    ((inputs,), ((outputs,), labels)) = mixed(pixels(y=np.arange(6)), classes=7)
    assert labels.shape == (6, 7)
    share = float(labels[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    torch.testing.assert_close(outputs, share * inputs + (1 - share) * inputs.roll(1, 0))


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 2, 3)])
def test_mixup_mixes_targets_linearly(shape):
    target = RNG.normal(size=shape).astype(np.float32)
    ((inputs,), ((outputs,), labels)) = mixed(floats(y=target))
    share = ((outputs - inputs.roll(1, 0)) / (inputs - inputs.roll(1, 0))).median()
    wanted = torch.from_numpy(target)
    torch.testing.assert_close(labels, share * wanted + (1 - share) * wanted.roll(1, 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("make", ["pixels", "floats"])
def test_cutmix_puts_a_rectangle_of_the_image_before_into_each_and_its_share_of_the_label(make, layout):
    shape = (None, 3, 16, 16) if layout == "nchw" else (None, 16, 16, 3)
    images = RNG.integers(1, 256, (6, 16, 16, 3), np.uint8)
    values = images.transpose(0, 3, 1, 2) if layout == "nchw" and make == "floats" else images
    values = values.astype(np.float32) if make == "floats" else values
    data = from_arrays({"x": values, "y": np.arange(6)}, [("i", np.float32, shape)])
    for seed in range(8):
        ((inputs,), ((outputs,), labels)) = mixed(data, 6, "cutmix", seed)
        channels = 1 if layout == "nchw" else 3
        before, came = inputs.roll(1, 0), (outputs != inputs).any(channels)
        torch.testing.assert_close(torch.where(came.unsqueeze(channels), before, inputs), outputs)
        rows, columns = came.any(0).any(1), came.any(0).any(0)
        assert (came == rows[:, None] & columns).all()  # the same rectangle of every image, all channels of it
        share = came[0].float().mean()
        torch.testing.assert_close(labels.diagonal(), (1 - share).expand(6))
        torch.testing.assert_close(labels.roll(-1, 0).diagonal(), share.expand(6))


def test_cutmix_mixes_images_without_labels():
    ((inputs,), ((outputs,), labels)) = mixed(floats(), text="cutmix", seed=1)
    assert labels is None
    assert 0 < (outputs != inputs).float().mean() < 1


def test_of_mixup_and_cutmix_each_batch_gets_one_of_which_its_seed_decides():
    data, kinds = floats(), []
    for seed in range(40):
        ((inputs,), ((outputs,), _)) = mixed(data, text="cutmix,mixup", seed=seed)
        cut = ((outputs == inputs) | (outputs == inputs.roll(1, 0))).all()
        kinds.append("cutmix" if cut else "mixup")
        ((_,), ((again,), _)) = mixed(data, text="mixup,cutmix", seed=seed)
        assert torch.equal(outputs, again)
    assert 10 < kinds.count("cutmix") < 30


def test_mixup_mixes_vectors_without_labels():
    data = from_arrays({"x": np.arange(6.0)[:, None]}, [("x", np.float32, (None, 1))])
    _, ((outputs,), labels) = mixed(data)
    assert labels is None
    assert outputs.sum() == pytest.approx(15)
    assert not torch.equal(outputs, torch.arange(6.0)[:, None])


VECTORS = from_arrays({"x": np.zeros((3, 5), np.float32)}, [("x", np.float32, (None, 5))])
IDS = from_arrays({"x": np.zeros((3, 5), np.int64)}, [("ids", np.int64, (None, 5))])
SIZES = from_arrays(
    {"a": np.zeros((1, 8, 8, 3), np.uint8), "b": np.zeros((1, 4, 4, 3), np.uint8)},
    [("a", np.float32, (None, 3, 8, 8)), ("b", np.float32, (None, 3, 4, 4))],
)
MAPS = from_arrays(
    {"a": np.zeros((1, 8, 8, 3), np.uint8), "b": np.zeros((1, 5, 8, 8), np.float32)},
    [("a", np.float32, (None, 3, 8, 8)), ("b", np.float32, (None, 5, 8, 8))],
)
BESIDE = from_arrays(
    {"a": np.zeros((3, 8, 8, 3), np.uint8), "b": np.zeros((3, 5), np.float32)},
    [("a", np.float32, (None, 3, 8, 8)), ("b", np.float32, (None, 5))],
)
REFUSED = {
    "crop of vectors": ("crop", VECTORS, "augment crop needs an image input"),
    "randaugment of vectors": ("randaugment", VECTORS, "augment randaugment needs an image input"),
    "randaugment of floats": ("randaugment", floats(), "augment randaugment needs one input of uint8 pixels"),
    "randaugment of masks": (
        "randaugment",
        pixels(y=np.zeros((6, 16, 16), int)),
        "randaugment cannot move masks",
    ),
    "images of two sizes": ("flip", SIZES, "augment flip needs images of one size"),
    "an image beside a map": ("flip", MAPS, "augment flip needs images of one size and 1 or 3 channels"),
    "masks of another size": (
        "crop",
        pixels(y=np.zeros((6, 4, 4), int)),
        r"cannot move labels of shape \(4, 4\)",
    ),
    "maps of targets": ("flip", pixels(y=np.zeros((6, 16, 16))), "cannot move labels"),
    "mixup of masks": ("mixup", pixels(y=np.zeros((6, 16, 16), int)), "augment mixup cannot mix masks"),
    "mixup of numbers": ("mixup", IDS, "augment mixup cannot mix the whole numbers of input 'ids'"),
    "mixup of sequences": ("mixup", pixels(y=np.zeros((6, 4), int)), "one class number per sample"),
    "cutmix of vectors": ("cutmix", VECTORS, "augment cutmix needs an image input"),
    "cutmix of an image beside a vector": ("mixup,cutmix", BESIDE, "augment cutmix cannot cut input 'b', no image"),
    "cutmix of images of two sizes": ("cutmix", SIZES, "augment cutmix needs images of one size"),
    "cutmix of masks": ("cutmix", pixels(y=np.zeros((6, 16, 16), int)), "augment cutmix cannot mix masks"),
    "cutmix beyond the classes": ("cutmix", pixels(y=np.arange(6) + 5), "augment cutmix: class numbers from 5 to 10"),
    "mixup beyond the classes": ("mixup", pixels(y=np.arange(6) + 5), "from 5 to 10 for a model of 10"),
    "mixup of ignored": ("mixup", pixels(y=np.arange(6) - 1), "from -1 to 4"),
}


@pytest.mark.parametrize(("text", "data", "says"), REFUSED.values(), ids=REFUSED)
def test_what_the_data_cannot_take_is_refused_in_one_line(text, data, says):
    with pytest.raises(TrainingError, match=says) as caught:
        Augmentation.of(text, 10).check(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_class_numbers_needs_to_know_how_many_there_are(name):
    with pytest.raises(TrainingError, match=f"augment {name} needs the number of classes"):
        Augmentation.of(name).check(pixels(y=np.arange(6)))


def test_without_torchvision_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(TrainingError, match=r"pip install 'onnxprune\[images\]'"):
        Augmentation.of("crop")
