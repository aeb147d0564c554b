"""What `predict` does to a picture on its way to the network, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from fusion_lib.prediction import predict


class Mirror(nn.Module):
    """Answers with the picture that it is shown, and remembers it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.seen = images
        return {"semantic": images + self.weight}


def test_a_smaller_picture_is_seen_without_aliasing():
    """Columns 0 and 4 of 8 are white, and 2 are left. The first looks at all within 4 pixels of its
    middle, 2, with weights 1 - distance / 4: 5/8, 7/8, 7/8, 5/8, 3/8, 1/8, in all 28/8; of these
    5/8 and 3/8 are white. The second has its middle at 6 and column 4 at a distance of 1.5. Without
    antialiasing it would be the mean of the two columns in the middle, which are black."""
    image = torch.zeros(3, 4, 8)
    image[:, :, [0, 4]] = 1.0
    model = Mirror()
    predict(model, image, size=(4, 2))
    expected = torch.tensor([8 / 28, 5 / 28]).expand(1, 3, 4, 2)
    torch.testing.assert_close(model.seen, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_are_taken_as_they_are(dtype):
    image = torch.tensor([0.0, 0.25, 1.0]).reshape(3, 1, 1).to(dtype)
    model = Mirror()
    predict(model, image)
    assert model.seen.dtype == torch.float32 and model.seen.flatten().tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    "image, error, message",
    [
        (255 * torch.rand(3, 8, 8), ValueError, r"image holds .*; expected uint8, or float in"),
        (torch.full((3, 8, 8), 1.01), ValueError, "holds values from 1.01 to 1.01; .* divide what"),
        (torch.rand(3, 8, 8) - 1, ValueError, r"image holds values from -.*; expected uint8, or"),
        (torch.full((3, 8, 8), torch.nan), ValueError, "image holds values from nan to nan"),
        (torch.rand(8, 8, 3), ValueError, r"image has shape \(8, 8, 3\); expected \(3, H, W\)"),
        (torch.rand(1, 3, 8, 8), ValueError, r"image has shape \(1, 3, 8, 8\); expected"),
        (torch.rand(4, 8, 8), ValueError, r"image has shape \(4, 8, 8\); expected"),
        (torch.rand(8, 8), ValueError, r"image has shape \(8, 8\); expected"),
        (torch.rand(3, 0, 8), ValueError, r"image has shape \(3, 0, 8\); expected"),
        (
            torch.ones(3, 8, 8, dtype=torch.int64),
            TypeError,
            "image has dtype torch.int64; expected",
        ),
        (np.zeros((3, 8, 8), np.uint8), TypeError, "image is of ndarray; expected a tensor"),
    ],
)
def test_what_is_no_picture_is_refused_before_the_network_sees_it(image, error, message):
    model = Mirror()
    with pytest.raises(error, match=message):
        predict(model, image)
    assert not hasattr(model, "seen")


def test_one_wrong_pixel_is_enough():
    image = torch.rand(3, 8, 8)
    image[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="image holds values from nan"):
        predict(Mirror(), image)


def test_what_resizing_rounds_above_one_is_still_a_picture():
    image = torch.full((3, 4, 4), 1.0000001)
    predict(model := Mirror(), image)
    assert torch.equal(model.seen[0], image) and image.max() > 1
