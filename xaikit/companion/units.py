"""Where a number of each unit can lie (of other units nothing is known), and the digits that are kept of it."""

import math

# A difference is one of two fractions; a ratio may be above 1.
RANGES: dict[str, tuple[float, float]] = {
    "fraction": (0, 1),
    "fraction of heads": (0, 1),
    "share of maps": (0, 1),
    "p-value": (0, 1),
    "difference": (-1, 1),
    "correlation": (-1, 1),
    "rank correlation": (-1, 1),
    "cosine": (-1, 1),
    "count": (0, math.inf),
}


def rounded(value: float) -> float:
    """`value` at 6 significant digits; whole numbers stay exact."""
    return value if value.is_integer() else float(f"{value:.6g}")
