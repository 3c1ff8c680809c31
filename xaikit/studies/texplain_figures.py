"""The pictures of notebook 02."""

import warnings
from collections.abc import Collection, Mapping

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

from xaikit.companion.plots import DARK, VERMILLION
from xaikit.storage.extras import extra


def word_cloud(ax: Axes, frequencies: Mapping[str, float], highlight: Collection[str] = ()) -> None:
    """Draw words as large as they are frequent, those in `highlight` (the category's own) in vermillion.

    Warns of words that do not fit, and of letters that the font lacks. Raises ValueError if there is no word, or a
    frequency is not positive.
    """
    with extra("notebooks"):
        from wordcloud import WordCloud

    if not frequencies or not all(0 < frequency < np.inf for frequency in frequencies.values()):
        raise ValueError("A word cloud needs words, each with a positive frequency: leave the others out.")
    path = font_manager.findfont("DejaVu Sans")
    known = font_manager.get_font(path).get_charmap()
    if lacking := sorted({sign for word in frequencies for sign in word if ord(sign) not in known}):
        warnings.warn(f"The cloud's font lacks {', '.join(lacking[:5])} ({len(lacking)} signs).", stacklevel=2)
    cloud = WordCloud(
        max_words=len(frequencies),
        width=900,
        height=600,
        background_color="white",
        font_path=path,
        random_state=0,
        color_func=lambda word, **kwargs: VERMILLION if word in highlight else DARK,
    )
    # The layout depends on the order of the words: sort, so that equal counts give equal pictures.
    ranked = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
    ax.imshow(cloud.generate_from_frequencies(dict(ranked)).to_array(), interpolation="bilinear")
    fitting = {word for (word, _), *_ in cloud.layout_}
    if lost := [word for word in frequencies if word not in fitting]:
        warnings.warn(f"{len(lost)} of {len(frequencies)} words do not fit: {', '.join(lost[:5])}.", stacklevel=2)
    ax.axis("off")
