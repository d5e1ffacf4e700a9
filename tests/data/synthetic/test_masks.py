"""The masks of procedural landmarks: exactly the pixels that change when the landmark is painted differently."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageFilter

from timm_landmark.data.synthetic import synthesize as module
from timm_landmark.data.synthetic.scene import render
from timm_landmark.data.synthetic.synthesize import landmark, view, view_mask


@pytest.mark.parametrize("index", [0, 2, 5, 9])
def test_a_mask_is_what_changes_with_the_colour_of_the_landmark(index):
    model = landmark(0, index)
    # colours below 0.3 count as glass, which draws random numbers: they are kept
    painted = [(points, (1.0, 0.3, 1.0) if max(c) >= 0.3 else c, shines) for points, c, shines in model.polygons]
    blobs = [(*place, (1.0, 0.3, 1.0)) for *place, _ in model.blobs]
    other = replace(model, polygons=painted, blobs=blobs)
    for number in range(3):
        mask = view_mask(model, 0, index, number, 64)
        assert mask.mode == "L" and mask.size == (64, 64)
        one, two = (
            np.asarray(render(each, np.random.default_rng([module._VIEW, 0, index, number]), 64), np.int64)
            for each in (model, other)
        )
        changed = np.abs(one - two).max(-1)
        reach = np.asarray(mask.filter(ImageFilter.MaxFilter(5)))  # a photo may be blurred
        assert not changed[reach == 0].any(), "something beside the landmark is in the mask's place"
        inside = np.asarray(mask) == 255
        assert inside.sum() > 20 and (changed[inside] > 0).mean() > 0.6, "the mask covers more than the landmark"


def test_rendering_a_mask_changes_no_photo():
    model = landmark(3, 1)
    before = view(model, 3, 1, 7, 48)
    masks = [np.asarray(view_mask(model, 3, 1, 7, 48)) for _ in range(2)]
    assert view(model, 3, 1, 7, 48) == before and (masks[0] == masks[1]).all()
