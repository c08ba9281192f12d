"""Tiles, overlays and class maps: which pixel gets which colour."""

from __future__ import annotations

import numpy as np
import torch

from everseg.pictures.overlay import class_map, draw_classes, draw_mask
from everseg.pictures.palette import MASK, ON, TRUTH, class_colour
from everseg.pictures.tile import tile


def test_a_tile_is_small_and_shows_mask_truth_and_clicks() -> None:
    image = torch.zeros(3, 100, 400, dtype=torch.uint8)
    mask, truth = torch.zeros(2, 100, 400, dtype=torch.bool)
    mask[20:80, 40:200], truth[20:80, 240:360] = True, True
    small = tile(image, mask=mask, truth=truth, longest=200)
    pixels = np.asarray(small)
    assert small.size == (200, 50)
    assert tuple(pixels[10, 50]) == MASK and tuple(pixels[10, 150]) == TRUTH, "outlines"
    assert tuple(pixels[25, 60]) != (0, 0, 0) and tuple(pixels[25, 150]) == (0, 0, 0), (
        "the prediction is tinted"
    )
    points, labels = torch.tensor([[100.0, 50.0], [300.0, 50.0]]), torch.tensor([1, -10])
    clicked = np.asarray(tile(image, points=points, labels=labels))
    assert (clicked == ON).all(-1).any() and not clicked[:, 160:].any(), "padding is not drawn"
    assert tile(image[:, :1, :1]).size == (1, 1)


def test_an_overlay_tints_inside_and_draws_the_edge() -> None:
    image = torch.full((3, 9, 9), 100, dtype=torch.uint8)
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    before = image.clone()
    drawn = draw_mask(image, mask)
    assert (drawn[~mask] == 100).all()
    tint = [int(0.6 * 100 + 0.4 * c) for c in MASK]
    assert drawn[4, 4].tolist() == tint
    assert drawn[2, 2].tolist() == list(MASK)
    assert drawn[3, 3].tolist() == tint
    assert torch.equal(image, before)
    everything = draw_mask(image, np.ones((9, 9), bool))
    assert everything[0, 0].tolist() == tint  # An object that leaves the picture has no edge there.
    assert (draw_mask(image, np.zeros((9, 9), bool)) == 100).all()


def test_classes_have_their_colours_in_maps_and_overlays() -> None:
    channels = np.zeros((9, 9), np.uint8)
    channels[2:7, 2:7] = 3
    written = class_map(channels)
    assert written.mode == "P" and np.array_equal(np.asarray(written), channels)
    assert written.convert("RGB").getpixel((4, 4)) == class_colour(3)
    drawn = draw_classes(torch.full((3, 9, 9), 100, dtype=torch.uint8), channels)
    assert drawn[0, 0].tolist() == [100] * 3 and drawn[2, 2].tolist() == list(class_colour(3))
    assert drawn[4, 4].tolist() == [int(50 + c / 2) for c in class_colour(3)]
