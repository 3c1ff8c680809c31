"""What is changed in a picture: a thing or all but a thing from another picture, a colour, a patch, a word, a gap.

All take and give images in [0, 1], many at once and on any device, and leave the rest of the picture as it was.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from xaikit.arguments import UNIT, PositiveShare

Images = Annotated[Float[Tensor, "images 3 height width"], UNIT]
Masks = Bool[Tensor, "images height width"]
Place = Literal["upper left", "upper right", "lower left", "lower right", "centre"]
PLACES: tuple[Place, ...] = ("upper left", "upper right", "lower left", "lower right", "centre")
Filling = Literal["mean", "blur", "surroundings"]
COARSE = 16  # pixels along a side that a blur makes one
FRINGE = 1 / 64  # of the height: what of a thing's edge lies outside of its mask


def filled(images: Images, holes: Masks) -> Images:
    """The images with the colours from around in their holes, smoothly; one that is all hole becomes grey.

    Known pixels are averaged to half the size until no hole is left (pull), and what a size lacks comes from the next
    coarser one, enlarged bilinearly (push).
    Source: Gortler et al. (1996), The Lumigraph, section 3.4, with weights of 0 and 1.

    >>> import torch
    >>> from xaikit.audit.changes import filled
    >>> image, hole = torch.full((1, 3, 8, 8), 0.25), torch.zeros(1, 8, 8, dtype=torch.bool)
    >>> hole[:, 2:5, 2:5] = True
    >>> filled(torch.where(hole[:, None], 1.0, image), hole).unique()
    tensor([0.2500])
    """
    known = (~holes)[:, None].to(images)
    return _push(images * known, known).clamp(0, 1)


def _push(colours: Tensor, known: Tensor) -> Tensor:
    """Colours everywhere, of those that are known (1) and 0 where they are not."""
    if bool((known == 1).all()):
        return colours
    height, width = known.shape[-2:]
    if max(height, width) == 1:
        return torch.where(known > 0, colours, 0.5)
    # A row or column that is left over when sides are odd counts as half of a pair, whose other half is unknown.
    pair = (0, width % 2, 0, height % 2)
    share = F.avg_pool2d(F.pad(known, pair), 2)
    mean = F.avg_pool2d(F.pad(colours, pair), 2) / share.clamp_min(1e-6)
    coarse = _push(torch.where(share > 0, mean, 0.0), (share > 0).to(known))
    return torch.where(known > 0, colours, F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False))


def grown(masks: Masks, share: PositiveShare = FRINGE) -> Masks:
    """The masks and what is next to them, as far as `share` of the height, a pixel at least."""
    reach = max(1, round(share * masks.shape[-2]))
    return F.max_pool2d(masks[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def without(images: Images, regions: Masks, by: Filling = "mean") -> Images:
    """The images without what lies in the regions: the mean colour of the rest, a blur, or the colours from around."""
    if by == "surroundings":
        return filled(images, regions)
    if by == "blur":
        size = [max(1, side // COARSE) for side in images.shape[-2:]]
        coarse = F.interpolate(filled(images, regions), size, mode="area")
        other = F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)
    else:
        rest = (~regions)[:, None].to(images)
        mean = (images * rest).sum((2, 3), keepdim=True) / rest.sum((2, 3), keepdim=True).clamp_min(1)
        other = torch.where(rest.sum((2, 3), keepdim=True) > 0, mean, 0.5)
    return torch.where(regions[:, None], other.clamp(0, 1), images)


def on_background(images: Images, things: Masks, others: Images, other_things: Masks) -> Images:
    """Each image's thing before the background of another: what its own thing hides there is filled from around.

    Source: Xiao et al. (2020), Noise or Signal (Mixed-Rand, Mixed-Same), with a smooth filling for tiles.
    """
    behind = filled(others, grown(other_things))
    return torch.where(things[:, None], images, behind)


def with_thing(images: Images, things: Masks, others: Images, other_things: Masks) -> Images:
    """Each image with the thing of another in place of its own: centre on centre, in the other's size.

    What the own thing leaves uncovered is filled from around. Where the other has none, nothing takes its place.
    """
    (top, left), (other_top, other_left) = _centres(things), _centres(other_things)
    cleared = filled(images, grown(things) & things.flatten(1).any(1)[:, None, None])
    rows = torch.arange(images.shape[-2], device=images.device)[None] - (top - other_top)[:, None]
    columns = torch.arange(images.shape[-1], device=images.device)[None] - (left - other_left)[:, None]
    inside = ((rows >= 0) & (rows < images.shape[-2]))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < images.shape[-1]))[:, None]
    rows, columns = rows.clamp(0, images.shape[-2] - 1), columns.clamp(0, images.shape[-1] - 1)
    which = torch.arange(len(images), device=images.device)[:, None, None]
    there = other_things[which, rows[:, :, None], columns[:, None, :]] & inside
    moved = others.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(there[:, None], moved, cleared)


def _centres(masks: Masks) -> tuple[Tensor, Tensor]:
    """Row and column in the middle of each mask's box; of the image's, where a mask is empty."""
    middles = []
    for axis, side in ((2, masks.shape[-2]), (1, masks.shape[-1])):
        hit = masks.any(axis).float()
        first, last = hit.argmax(1), side - 1 - hit.flip(1).argmax(1)
        middles.append(torch.where(hit.any(1), (first + last) // 2, side // 2))
    return middles[0], middles[1]


def with_colour(images: Images, regions: Masks, others: Images, other_regions: Masks) -> Images:
    """The images with each region's colours made those of another's, channel by channel; what is darker stays darker.

    Each level becomes the other's level of the same rank (histogram matching), so that a red car with black wheels
    becomes a blue one with black wheels: a shift of the mean would make it violet, and its wheels, too. Where one of
    the two regions is empty nothing changes.
    Source: Gonzalez and Woods (2018), section 3.3, histogram specification, at every rank.
    """
    changed = images.clone()
    for image, region, other, theirs in zip(changed, regions, others, other_regions, strict=True):
        count, available = int(region.sum()), int(theirs.sum())
        if count and available:
            order = image[:, region].argsort(dim=1, stable=True)
            levels = other[:, theirs].sort(dim=1).values
            # The middle of each rank: of as many pixels, it is the other's level of the same rank.
            place = (torch.arange(count, device=images.device, dtype=torch.float64) + 0.5) * (available / count)
            image[:, region] = torch.empty_like(image[:, region]).scatter_(1, order, levels[:, place.long()])
    return changed


def with_patch(
    images: Images, patch: Annotated[Float[Tensor, "channels rows columns"], UNIT], place: Place | tuple[int, int]
) -> Images:
    """The images with a patch at a place (see `box`); a fourth channel says how opaque it is.

    Raises ValueError for a patch that is larger than the images, or has other than 3 or 4 channels.
    """
    channels, rows, columns = patch.shape
    if channels not in (3, 4) or rows > images.shape[-2] or columns > images.shape[-1]:
        raise ValueError(
            f"The patch has shape {tuple(patch.shape)}, images {tuple(images.shape[1:])}: give 3 or 4 channels, and no "
            "more pixels than an image has."
        )
    area = box(place, (rows, columns), (images.shape[-2], images.shape[-1]))
    opaque = patch[3:] if channels == 4 else torch.ones_like(patch[:1])
    changed = images.clone()
    changed[:, :, *area] = torch.lerp(images[:, :, *area], patch[:3].to(images), opaque.to(images)).clamp(0, 1)
    return changed


def box(place: Place | tuple[int, int], size: tuple[int, int], within: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a patch of `size`: a twentieth of the image from the edges at a corner, or in the centre.

    A pair is the row and the column of its upper left pixel.
    """
    if not isinstance(place, str):
        return slice(place[0], place[0] + size[0]), slice(place[1], place[1] + size[1])
    found = []
    for side, whole, near in zip(size, within, (place.startswith("upper"), place.endswith("left")), strict=True):
        room = whole - side
        start = room // 2 if place == "centre" else min(whole // 20, room) if near else room - min(whole // 20, room)
        found.append(slice(start, start + side))
    return found[0], found[1]


def word_patch(word: str, height: int) -> UInt8[Tensor, "4 rows columns"]:
    """A word in white letters of `height` pixels, framed in black, as a patch whose fourth channel says how opaque."""
    font = ImageFont.load_default(height)
    frame = max(1, height // 10)
    left, top, right, bottom = (round(side) for side in font.getbbox(word, stroke_width=frame))
    drawn = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), word, "white", font, stroke_width=frame, stroke_fill="black")
    return pil_to_tensor(drawn)
