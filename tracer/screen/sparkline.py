"""Sparklines: counts as a row of bars. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCKS = " ▁▂▃▄▅▆▇█"
"""For zero, and for each height."""
PLAIN = " .:-=+*#@"
"""The same for terminals whose encoding has no blocks."""


def sparkline(counts: NDArray[np.int64], width: int) -> str:
    """The latest `width` counts, one column each, the highest bar for the largest of them.

    Zero is blank, and whatever is above zero is seen. Fewer counts than columns stand at the right.

    Args:
        counts: shape (n,), none negative, the latest last.
        width: columns.
    """
    shown = counts[max(len(counts) - width, 0) :]
    most = int(shown.max()) if len(shown) else 0
    heights = np.ceil(shown * (len(BLOCKS) - 1) / most).astype(np.intp) if most else np.zeros(len(shown), np.intp)
    return "".join(BLOCKS[height] for height in heights.tolist()).rjust(width)
