"""The pictures of notebook 01."""

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from xaikit.companion.plots import BLUE, DARK, GREEN, ORANGE, VERMILLION, pictures_of

# Who is who in every figure of this notebook.
SHAPE, COLOUR = BLUE, VERMILLION
MODEL = {"biased": ORANGE, "unbiased": GREEN}


def similarity_matrix(
    ax: Axes,
    values: Float[Tensor, "captions images"],
    captions: Sequence[str],
    images: Float[Tensor, "images 3 height width"],
    *,
    decimals: int = 2,
) -> None:
    """Show similarities [captions, images] as in CLIP's paper: images on top, captions at the left.

    The highest value of each column, the caption that an image gets, is outlined.
    Raises ValueError if the captions are not one a row, or image values lie outside 0..1.
    """
    if len(captions) != len(values):
        raise ValueError(f"There are {len(captions)} captions for {len(values)} rows of values: give one each.")
    pictures = pictures_of(images)
    table = values.detach().cpu().numpy()
    heat = ax.imshow(table, cmap="viridis")
    height = 0.94 * images.shape[2] / images.shape[3]
    for column, picture in enumerate(pictures):
        ax.imshow(picture, extent=(column - 0.47, column + 0.47, -0.6, -0.6 - height))
        winner = int(table[:, column].argmax())
        ax.add_patch(Rectangle((column - 0.46, winner - 0.46), 0.92, 0.92, fill=False, color=VERMILLION, lw=2))
        for row, value in enumerate(table[:, column]):
            light = heat.norm(value) > 0.6  # where viridis turns from dark to light
            ax.text(
                column,
                row,
                f"{value:.{decimals}f}",
                ha="center",
                va="center",
                color=DARK if light else "white",
            )
    ax.set_anchor("NW")  # centred, the square cells would let the layout cut long captions off
    ax.set_xlim(-0.5, len(pictures) - 0.5)
    ax.set_ylim(len(captions) - 0.5, -0.65 - height)
    ax.set_xticks([])
    ax.set_yticks(range(len(captions)), captions, parse_math=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
