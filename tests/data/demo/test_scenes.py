from __future__ import annotations

import cv2
import numpy as np
import pytest

from carvana.data.demo import class_names, draw_scene
from carvana.data.demo.canvas import Canvas
from carvana.errors import DataError

SIZE = (120, 160)
SCENES, VIEWS = 6, 1


def _labels(classes, size=SIZE, scenes=SCENES, views=VIEWS):
    """All label maps, (scenes, views, H, W)."""
    drawn = [
        [draw_scene(scene, view, classes=classes, size=size)[1] for view in range(1, views + 1)]
        for scene in range(scenes)
    ]
    return np.array(drawn)


@pytest.fixture(scope="module")
def twelve():
    return _labels(12)


def test_all_classes_occur_and_no_other_value(twelve):
    assert np.unique(twelve).tolist() == list(range(12))


def test_each_of_many_classes_is_in_several_groups():
    classes = 60
    labels = _labels(classes, size=(90, 120), scenes=12, views=1)
    assert labels.max() < classes
    groups = [sum(kind in np.unique(scene) for scene in labels) for kind in range(classes)]
    assert min(groups) >= 2


@pytest.mark.parametrize("classes", [2, 4, 11])
def test_fewer_classes_have_the_same_images_and_the_rest_is_background(classes):
    image, labels = draw_scene(0, 1, classes=classes, size=SIZE)
    same, all_labels = draw_scene(0, 1, classes=12, size=SIZE)
    assert np.array_equal(image, same)
    assert np.array_equal(labels, np.where(all_labels < classes, all_labels, 0))
    assert labels.max() == classes - 1


def test_sign_is_rare_but_in_several_groups(twelve):
    has = (twelve == class_names(12).index("sign")).reshape(SCENES, -1).sum(1)
    assert 0 < has.sum() < 0.003 * twelve.size
    assert 2 <= np.count_nonzero(has) <= SCENES // 2


def test_poles_are_three_pixels_wide_at_most():
    poles = _labels(12, (240, 320), scenes=4) == class_names(12).index("pole")
    assert poles.any(axis=(1, 2, 3)).all()
    for pole in poles[:, 0].astype(np.uint8):
        # In a stroke of 3 pixels no pixel is further than 2 from the outside, in one of 5 pixels the middle is at 3.
        assert cv2.distanceTransform(np.pad(pole, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max() < 2.5


def test_labels_are_where_a_shape_covers_half_of_the_pixel():
    """Coverage is counted on 50 x 50 points of each pixel by the rule of the crossing number."""
    canvas = Canvas(
        (12, 16), spectra=np.zeros((2, 0), np.float32), haze=(1, 1, 1), light=(1, 1, 1), noise=np.random.default_rng(0)
    )
    shape = np.array([(2.3, 1.6), (13.7, 3.2), (9.1, 10.4), (4.4, 7.9)])
    canvas.fill([shape], 1, (1, 1, 1), depth=0, rough=0)
    y, x = (np.indices((12 * 50, 16 * 50)) + 0.5) / 50
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(shape, np.roll(shape, -1, axis=0), strict=True):
        inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    share = inside.reshape(12, 50, 16, 50).mean(axis=(1, 3))
    sure = np.abs(share - 0.5) > 0.13  # the outline of a polygon is drawn as well, up to an eighth of a pixel wide
    assert np.array_equal(canvas.labels[sure], (share > 0.5)[sure])
    assert np.abs(canvas.image[..., 0] - share).max() < 0.26
    assert (canvas.image[share == 0] < 0.26).all()


def test_equal_arguments_give_equal_arrays_and_others_do_not():
    drawn = [draw_scene(3, 2, classes=20, channels=5, size=(48, 64)) for _ in range(2)]
    assert np.array_equal(drawn[0][0], drawn[1][0])
    assert np.array_equal(drawn[0][1], drawn[1][1])
    for other in ({"seed": 1}, {"scene": 4}, {"view": 1}):
        image, _ = draw_scene(**({"scene": 3, "view": 2, "classes": 20, "channels": 5, "size": (48, 64)} | other))
        assert not np.array_equal(image, drawn[0][0])


def test_channels():
    labels = {}
    for channels in (1, 2, 3, 4, 12):
        image, labels[channels] = draw_scene(0, 1, classes=12, channels=channels, size=SIZE)
        assert image.dtype == np.uint8
        assert image.shape == (SIZE if channels == 1 else (*SIZE, channels))
    assert all(np.array_equal(labels[3], each) for each in labels.values())
    infrared = draw_scene(0, 1, classes=12, channels=4, size=SIZE)[0][..., 3]
    names = class_names(12)
    bright = {
        name: infrared[labels[3] == index].mean() for index, name in enumerate(names) if (labels[3] == index).any()
    }
    assert bright["tree"] > bright["road"] + 60
    assert bright["grass"] > bright["sky"] + 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1},
        {"classes": 151},
        {"channels": 0},
        {"channels": 65},
        {"scene": -1},
        {"view": 0},
        {"size": (31, 64)},
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(DataError):
        draw_scene(**({"scene": 0, "view": 1, "classes": 4, "size": (32, 48)} | wrong))
