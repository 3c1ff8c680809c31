"""The pictures of notebook 02."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

from xaikit.companion.plots import DARK, VERMILLION
from xaikit.storage.extras import extra


def word_cloud(ax: Axes, frequencies: Mapping[str, float], highlight: Collection[str] = ()) -> None:
    """Draw words as large as they are frequent, those in `highlight` (the category's own) in vermillion.

    Raises ValueError if there is no word, or a frequency is not positive.
    """
    with extra("notebooks"):
        from wordcloud import WordCloud

    if not frequencies or not all(0 < frequency < np.inf for frequency in frequencies.values()):
        raise ValueError("A word cloud needs words, each with a positive frequency: leave the others out.")
    cloud = WordCloud(
        width=900,
        height=600,
        background_color="white",
        font_path=font_manager.findfont("DejaVu Sans"),
        random_state=0,
        color_func=lambda word, **kwargs: VERMILLION if word in highlight else DARK,
    )
    # The layout depends on the order of the words: sort, so that equal counts give equal pictures.
    ranked = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
    ax.imshow(cloud.generate_from_frequencies(dict(ranked)).to_array(), interpolation="bilinear")
    ax.axis("off")
