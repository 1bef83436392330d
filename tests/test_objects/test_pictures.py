"""The picture of rate and loss that a run keeps as an artifact."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from flows.pictures import rate_picture


def test_picture_has_a_panel_for_each_case(tiny_release):
    uri = rate_picture(tiny_release)
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as picture:
        shown = np.asarray(picture.convert("L"))
    assert min(shown.shape) > 250
    assert (shown < 128).mean() > 0.005  # axes, lines and words


def test_nothing_measured_has_no_picture(objects_release):
    assert rate_picture(objects_release) == ""
