"""Targets of several classes against their definition: means of one-hot planes over the area of each pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from carvana.data.augment import make_augment
from carvana.data.samples import Sample
from carvana.data.target import (
    augmented,
    balanced_weights,
    dense,
    pack_labels,
    packed_again,
    packed_shape,
    read_labels,
    shrink_labels,
    to_tensor,
    top_shares,
    unpack,
)
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.progress import SilentReporter

MANY = Task(classes=[f"class {n}" for n in range(11)], ignore=[255])
CAR = Task(classes=["car"], ignore=[255])


def scene(size: tuple[int, int] = (96, 128), classes: int = 11, *, void: int = 255, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of classes, with void among them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8 if void == 255 else np.uint16)
    for index in [*range(classes), void]:
        top, left = rng.integers(0, (size[0] - 20, size[1] - 20))
        labels[top : top + rng.integers(5, 30), left : left + rng.integers(5, 30)] = index
    return labels


def means(labels: NDArray[np.uint8], size: tuple[int, int], classes: int) -> NDArray[np.float64]:
    """One-hot planes averaged over blocks whose sides divide the picture."""
    rows, columns = labels.shape[0] // size[0], labels.shape[1] // size[1]
    planes = np.stack([labels == index for index in range(classes)]).astype(float)
    return planes.reshape(classes, size[0], rows, size[1], columns).mean((2, 4))


def targets_of(labels: NDArray[np.uint8], size: tuple[int, int], task: Task = MANY) -> NDArray[np.float32]:
    packed = pack_labels(labels, size, task=task)
    assert packed.shape == packed_shape(size, task)
    return unpack(to_tensor(packed, task)[None], task)[0][0].numpy()


def test_where_up_to_four_classes_meet_the_target_is_the_exact_share() -> None:
    labels, size = scene(), (24, 32)
    expected = means(labels, size, 11)
    few = (expected > 0).sum(0) <= 4
    assert few.mean() > 0.9
    assert np.abs(targets_of(labels, size) - expected)[:, few].max() <= 1 / 255


def test_what_counts_is_what_is_not_void_and_the_shares_sum_to_it() -> None:
    labels, size = scene(), (24, 32)
    packed = pack_labels(labels, size, task=MANY)
    targets, valid = unpack(to_tensor(packed, MANY)[None], MANY)
    torch.testing.assert_close(valid, targets.sum(1, keepdim=True))
    counts = (labels != 255).reshape(24, 4, 32, 4).mean((1, 3))
    assert np.abs(valid[0, 0].numpy() - counts).max() <= 1 / 255
    nothing = Task(classes=MANY.names)
    labels[labels == 255] = 0
    [targets] = unpack(to_tensor(pack_labels(labels, (13, 17), task=nothing), nothing)[None], nothing)
    torch.testing.assert_close(targets.sum(1), torch.ones(1, 13, 17))


def test_of_more_than_four_classes_the_four_largest_shares_grow_to_the_whole() -> None:
    labels = np.repeat(np.arange(6, dtype=np.uint8), [30, 25, 20, 15, 6, 4])[None].repeat(4, axis=0)
    target = targets_of(labels, (1, 1))[:, 0, 0]
    assert target[4:].max() == 0
    np.testing.assert_allclose(target[:4], np.array([30, 25, 20, 15]) / 90, atol=1 / 255)
    assert target.sum() == pytest.approx(1)


def test_equal_sizes_and_nearest_give_one_class_a_pixel() -> None:
    labels = scene()
    hard = targets_of(labels, labels.shape)
    assert set(np.unique(hard).tolist()) == {0, 1}
    assert (hard.argmax(0) == labels)[labels != 255].all()
    assert hard.sum(0)[labels == 255].max() == 0
    found = shrink_labels(labels, (24, 32), void=255, target="nearest")
    assert (found.shares[0] == 255 * (labels[::4, ::4] != 255)).all()
    assert (found.classes[0] == labels[::4, ::4])[labels[::4, ::4] != 255].all()


def test_300_classes_take_12_bytes_a_pixel_and_keep_their_indices() -> None:
    task = Task(classes=[f"c{n}" for n in range(300)], ignore=[65535])
    labels = np.arange(96 * 128).reshape(96, 128) // 41 % 300
    labels = labels.astype(np.uint16)
    labels[:8, :8] = task.void
    assert packed_shape((96, 128), task) == (12, 96, 128)
    hard = targets_of(labels, (96, 128), task)
    assert (hard.argmax(0) == labels)[labels != task.void].all()
    small = targets_of(labels, (48, 64), task)
    assert np.abs(small - means(labels, (48, 64), 300)).max() <= 1 / 255


def test_dense_and_packed_are_two_ways_to_write_the_same() -> None:
    found = shrink_labels(scene(), (24, 32), void=255)
    planes, present = dense(found)
    again = top_shares(planes, present)
    for one, other in ((found, again), (found, found)):
        packed = [torch.from_numpy(np.concatenate(each))[None] for each in (one, other)]
        assert torch.equal(*(unpack(each, MANY)[0] for each in packed))


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (MANY, scene()),
        (Task(classes=[f"c{n}" for n in range(300)], ignore=[65535]), scene().astype(np.uint16)),
        (CAR, np.where(scene() == 3, CAR.void, scene() % 2).astype(np.uint8)),
        (Task(classes=["a", "b"], kind="multilabel"), np.stack([scene() % 2, scene() % 3 // 2])),
    ],
)
def test_targets_can_be_packed_again(task: Task, labels: np.ndarray) -> None:
    packed = to_tensor(pack_labels(labels, (24, 32), task=task), task)
    targets = unpack(packed[None], task)
    again = packed_again([each[0] for each in targets], task)
    for one, other in zip(targets, unpack(again[None], task), strict=True):
        torch.testing.assert_close(one, other)
    if task.ignore:  # less may count than before
        half = targets[1][0].clone()
        half[..., :16] = 0
        less = packed_again([targets[0][0], half], task)
        torch.testing.assert_close(unpack(less[None], task)[1][0], half, atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["seed", "studio"])
def test_what_comes_in_at_a_border_is_void_and_never_the_first_class(name: str) -> None:
    """albumentations fills masks with 0 there, which is the first class of an index map."""
    augment = make_augment(name, void=True)
    assert augment is not None
    labels = np.full((64, 64), 5, np.uint8)
    image, target = np.full((64, 64, 3), 200, np.uint8), pack_labels(labels, (64, 64), task=MANY)
    came_in = 0
    for draw in range(8):
        _, moved = augmented(augment, image.copy(), target, (0, 0, draw), MANY)
        targets = unpack(torch.from_numpy(moved)[None], MANY)[0][0]
        assert targets.sum(0).sub(targets[5]).abs().max() == 0  # no other class is anywhere
        came_in += int((targets.sum(0) == 0).sum())
    assert came_in > 0


def test_interpolation_invents_no_class() -> None:
    """Between class 2 and class 10, linear interpolation of indices would find all classes from 3 to 9."""
    augment = make_augment("seed", void=True)
    assert augment is not None
    labels = np.full((64, 64), 2, np.uint8)
    labels[:, 32:] = 10
    for draw in range(4):
        image = np.zeros((64, 64, 3), np.uint8)
        _, moved = augmented(augment, image, pack_labels(labels, (64, 64), task=MANY), (0, 0, draw), MANY)
        targets = unpack(torch.from_numpy(moved)[None], MANY)[0][0]
        assert set(targets.flatten(1).amax(1).nonzero().flatten().tolist()) == {2, 10}


def test_an_image_that_is_all_void_can_be_augmented() -> None:
    augment = make_augment("seed", void=True)
    assert augment is not None
    target = pack_labels(np.full((32, 32), 255, np.uint8), (32, 32), task=MANY)
    _, moved = augmented(augment, np.zeros((32, 32, 3), np.uint8), target, (0, 0, 0), MANY)
    assert unpack(torch.from_numpy(moved)[None], MANY)[0].abs().max() == 0


def test_one_object_with_ignored_values_has_its_share_and_what_counts(tmp_path: Path) -> None:
    task, values = Task(classes={"cell": "1-9"}, ignore=[255]), np.zeros((8, 8), np.uint8)
    values[:4, :4], values[:4, 4:] = 7, 255
    Image.fromarray(values).save(tmp_path / "x.png")
    sample = Sample(tmp_path / "x.png", tmp_path / "x.png", "x")
    packed = pack_labels(read_labels(sample, task), (2, 2), task=task)
    coverage, valid = unpack(to_tensor(packed, task)[None], task)
    assert coverage[0, 0].tolist() == [[1, 0], [0, 0]]
    assert valid[0, 0].tolist() == [[1, 0], [1, 1]]
    assert read_labels(sample, task)[0].tolist() == [1] * 4 + [255] * 4


def test_two_label_files_of_one_image_are_refused(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "x.jpg", (tmp_path / "a.png", tmp_path / "b.png"), "x")
    with pytest.raises(DataError, match=r"has 2 label files, such as .*b.png; expected one"):
        read_labels(sample, MANY)


def test_balanced_weights_are_all_pixels_over_a_classs_own(tmp_path: Path) -> None:
    """Those of sklearn.utils.class_weight.compute_class_weight("balanced"): n / (classes * count)."""
    labels = np.repeat(np.array([0, 1, 2, 255], np.uint8), [60, 30, 10, 20]).reshape(10, 12)
    Image.fromarray(labels).save(tmp_path / "x.png")
    samples = [Sample(tmp_path / "x.png", tmp_path / "x.png", "x")]
    task = Task(classes=["a", "b", "c"], ignore=[255])
    assert balanced_weights(samples, task, SilentReporter()) == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    four = Task(classes=["a", "b", "c", "never"], ignore=[255])
    assert balanced_weights(samples, four, SilentReporter())[3] == 0
