"""Grids of images."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jrnn._checks import check_width
from jrnn.plots._figures import new_figure

CAPTION = 22  # characters in a line


def pictures(images: Sequence[Any], captions: Sequence[str], columns: int = 5) -> list[Axes]:
    """Draw gray images in a grid, row by row, with captions below.

    The smallest value of all images is black and the largest white. Captions are wrapped, and may contain
    line breaks, for example between a prediction and a target.

    Args:
      images: n arrays, (height, width).
      captions: n texts.
      columns: number of images per row.

    Returns:
      The axes of each, in a new figure without pyplot; `[0].figure.savefig("digits.png")` writes it.

    Raises:
      ValueError: no images, an image that is not (height, width) of finite values, or a wrong number of
        captions.

    >>> import numpy as np
    >>> from jrnn.plots import pictures
    >>> axes = pictures(np.eye(8)[None], ["a line that falls from left to right"])
    >>> axes[0].get_xlabel().splitlines()
    ['a line that falls from', 'left to right']
    """
    check_width("columns", columns)
    arrays = [np.asarray(image).astype(np.float64) for image in images]
    if not arrays or len(captions) != len(arrays):
        raise ValueError(
            f"got {len(captions)} captions and {len(arrays)} images, needs as many, at least one"
        )
    for index, array in enumerate(arrays):
        if array.ndim != 2 or not array.size or not np.isfinite(array).all():
            raise ValueError(f"images[{index}] of shape {array.shape} must be (height, width), all finite")
    texts = [_wrap(caption) for caption in captions]
    black, white = min(array.min() for array in arrays), max(array.max() for array in arrays)
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    lines = max(text.count("\n") for text in texts) + 1
    figure = new_figure(1.75 * columns, (1.65 + 0.15 * lines) * rows)
    axes = []
    for index, (array, text) in enumerate(zip(arrays, texts, strict=True), 1):
        ax = figure.add_subplot(rows, columns, index, xticks=[], yticks=[])
        ax.imshow(array, cmap="gray", vmin=black, vmax=white)
        ax.set_xlabel(text, fontsize=8, parse_math=False)
        axes.append(ax)
    return axes


def _wrap(caption: str) -> str:
    return "\n".join(textwrap.fill(line, CAPTION) for line in caption.splitlines())
