"""Augmented views of images: what changes, what does not, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrel.encoders import ImageAugmentation, ImageView, image_views

NOTHING = ImageAugmentation(rotation=0, scaling=0, shift=0, contrast=0, brightness=0, noise=0)


def pictures(n=7, channels=1):
    """A bright square off the centre of a dark image, another place for each."""
    images = np.full((n, 20, 24, channels), 10, np.uint8)
    for position, image in enumerate(images):
        image[4 + position : 9 + position, 6:12] = 220
    return images


def test_no_change_gives_the_images():
    for view in image_views(pictures(channels=3), augmentation=NOTHING):
        np.testing.assert_array_equal(view, pictures(channels=3))


def test_views_differ_from_the_images_and_from_each_other_but_not_much():
    images = pictures()
    first, second = image_views(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    for a, b in ((first, images), (second, images), (first, second)):
        assert 3 < np.abs(a.astype(float) - b).mean() < 60


def test_a_view_depends_on_the_seed_and_the_place_of_the_image_alone():
    images = pictures(300)
    (whole,) = image_views(images, num_views=1, seed=5)
    (start,) = image_views(images[:260], num_views=1, seed=5)
    np.testing.assert_array_equal(whole[:260], start)
    (other,) = image_views(images, num_views=1, seed=6)
    assert (whole != other).mean() > 0.3
    same_image = np.repeat(pictures(1), 2, axis=0)
    (view,) = image_views(same_image, num_views=1)
    assert (view[0] != view[1]).any()


def test_a_part_of_the_images_has_the_views_of_its_places():
    images = pictures(300)
    whole = image_views(images, num_views=3, seed=5)
    for part in (slice(0, 100), slice(100, 290), slice(290, 300)):
        views = image_views(images[part], seed=5, first=part.start)
        for number in range(2):
            np.testing.assert_array_equal(views[number], whole[number][part])
            np.testing.assert_array_equal(ImageView(number, seed=5)(images[part], first=part.start), views[number])


def test_each_range_is_kept():
    images = np.repeat(pictures(1), 64, axis=0)
    for options, least in (({"brightness": 0.2}, 20), ({"contrast": 0.5}, 20), ({"noise": 0.1}, 10)):
        (view,) = image_views(images, num_views=1, augmentation=replaced(**options))
        change = np.abs(view.astype(float) - images)
        assert change.max() >= least
    (brighter,) = image_views(images, num_views=1, augmentation=replaced(brightness=0.1))
    assert np.abs(brighter.astype(float) - images).max() <= 0.1 * 255 + 1
    (moved,) = image_views(images, num_views=1, augmentation=replaced(shift=0.1))
    centres = [np.argwhere(pair[..., 0] > 150).mean(axis=0) for pair in (*moved, *images)]
    steps = np.abs(np.subtract(centres[:64], centres[64:]))
    assert (steps.max(axis=0) <= np.array([0.1 * 20, 0.1 * 24]) + 0.6).all()
    assert (steps.max(axis=0) > 1).all()


@pytest.mark.slow
def test_a_rotation_turns_about_the_centre():
    image = np.zeros((1, 21, 21, 1), np.uint8)
    image[0, 10, :, 0] = 255
    views = np.concatenate(image_views(image, num_views=40, augmentation=replaced(rotation=30)))
    assert (views[:, 10, 10, 0] > 200).all()
    rows, columns = np.nonzero(views.mean(axis=0)[..., 0] > 5)
    angles = np.degrees(np.arctan2(rows - 10, columns - 10))[np.hypot(rows - 10, columns - 10) > 5]
    folded = np.minimum(np.abs(angles), 180 - np.abs(angles))
    assert 15 < folded.max() < 30 + 8  # a line has a width


def test_mirroring_turns_half_of_the_images():
    images = np.repeat(pictures(1), 200, axis=0)
    (view,) = image_views(images, num_views=1, augmentation=replaced(mirror=True))
    mirrored = (view == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (view == images).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rotation": -1}, "rotation is -1"), ({"noise": np.nan}, "noise is nan"), ({"scaling": 1.0}, "below 1")],
)
def test_ranges_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageAugmentation(**options)


def test_bad_images_and_counts_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        image_views(pictures().astype(np.float32))
    with pytest.raises(ValueError, match="num_views is 0"):
        image_views(pictures(), num_views=0)
    with pytest.raises(ValueError, match="number is -1"):
        ImageView(-1)


def replaced(**options):
    return ImageAugmentation(
        **{"rotation": 0, "scaling": 0, "shift": 0, "contrast": 0, "brightness": 0, "noise": 0, **options}
    )
