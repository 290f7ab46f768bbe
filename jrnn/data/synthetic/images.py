"""Images of digits and what can be said about them: shape, slant and place."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import brief, check_width
from jrnn.data.synthetic.drawing import pick, seeded, words

Floats = NDArray[np.float32]

NAMES = words("zero one two three four five six seven eight nine")
GLYPHS = (
    (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    ("..#..", ".##..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    (".###.", "#...#", "....#", "...#.", "..#..", ".#...", "#####"),
    (".###.", "#...#", "....#", "..##.", "....#", "#...#", ".###."),
    ("...#.", "..##.", ".#.#.", "#..#.", "#####", "...#.", "...#."),
    ("#####", "#....", "####.", "....#", "....#", "#...#", ".###."),
    ("..##.", ".#...", "#....", "####.", "#...#", "#...#", ".###."),
    ("#####", "....#", "...#.", "..#..", "..#..", ".#...", ".#..."),
    (".###.", "#...#", "#...#", ".###.", "#...#", "#...#", ".###."),
    (".###.", "#...#", "#...#", ".####", "....#", "...#.", ".##.."),
)
SIDE, CENTRE = 28, 13.5
WIDTHS = {"thin": (1.1, 1.7), "thick": (2.7, 3.3)}  # of strokes, in pixels
SLANTS = {"left": (-0.45, -0.3), "upright": (-0.08, 0.08), "right": (0.3, 0.45)}  # columns per row
SHIFTS = {"first": (-5.0, -4.0), "middle": (-1.0, 1.0), "last": (4.0, 5.0)}  # pixels off the centre
ROWS = {"first": "top", "middle": "middle", "last": "bottom"}
COLUMNS = {"first": "left", "middle": "middle", "last": "right"}
WIDTH_BOUND, SLANT_BOUND, SHIFT_BOUND, INK_BOUND = 2.3, 0.2, 2.5, 0.25


class Digit(NamedTuple):
    """What a caption says about an image."""

    label: int  # 0 to 9
    thickness: str  # thin or thick
    slant: str  # left, upright or right
    row: str  # top, middle or bottom
    column: str  # left, middle or right


def digits(count: int, seed: int) -> tuple[Floats, list[Digit]]:
    """Images of digits, drawn with strokes, and what they show.

        image = clip(contrast · clip(width / 2 − d + 1/2, 0, 1) + 0.05 ε, 0, 1),   ε ~ N(0, 1)

    where d is the distance of a pixel to the strokes: lines between neighbouring dots of a 5 × 7 font,
    scaled, sheared and shifted. Every attribute is uniform over its values. Guessing the most frequent
    of each is right for all five in one image of 540; the caption says all of them.

    Args:
      count: images.
      seed: of the draws.

    Returns:
      `(images, digits)`: (count, 28, 28), in [0, 1], ink 1 on 0 as in MNIST, and a list of `Digit`.

    >>> from jrnn.data.synthetic import caption, digits
    >>> images, shown = digits(count=2, seed=0)
    >>> images.shape, " ".join(caption(shown[0]))
    ((2, 28, 28), 'a thick eight leaning left at the top left')
    """
    check_width("count", count)
    random = seeded(seed)
    images, shown = [], []
    for _ in range(count):
        label, scale = int(random.integers(10)), random.uniform(1.7, 2.1)
        width, slant, down, right = (pick(random, list(r)) for r in (WIDTHS, SLANTS, SHIFTS, SHIFTS))
        centre = (CENTRE + random.uniform(*SHIFTS[down]), CENTRE + random.uniform(*SHIFTS[right]))
        ink = _drawn(label, scale, random.uniform(*WIDTHS[width]), random.uniform(*SLANTS[slant]), centre)
        noise = 0.05 * random.standard_normal(ink.shape)
        images.append(np.clip(random.uniform(0.8, 1.0) * ink + noise, 0, 1).astype(np.float32))
        shown.append(Digit(label, width, slant, ROWS[down], COLUMNS[right]))
    return np.stack(images), shown


def describe(image: Any, label: int) -> Digit:
    """Measure the attributes of an image of a digit, one of MNIST too.

        width = 2 Σ I / Σ |∇I|,   slant = −μ₁₁ / μ₀₂,   place = centre of the bounding box

    I is the image with all below 1/4 of its maximum set to 0, μ its central moments (rows down). The
    slant is counted from that of our upright glyph of the same label, which for a 7 is not 0. A stroke
    of 2.3 pixels or more is thick, a slant beyond ± 0.2 columns per row leans, and a box centre 2.5
    pixels off the middle of the image is at a side.

    Args:
      image: (rows, columns), ink high on 0, such as (28, 28) in [0, 1] or [0, 255].
      label: the digit, 0 to 9.

    Returns:
      A `Digit`.

    Raises:
      ValueError: an image with another number of axes or without ink, or a label that is no digit.

    >>> from jrnn.data.synthetic import describe, digits
    >>> images, shown = digits(count=1, seed=0)
    >>> describe(images[0], shown[0].label) == shown[0]
    True
    """
    image = np.asarray(image, np.float64)
    if image.ndim != 2:
        raise ValueError(f"image has shape {image.shape}, needs two axes: (rows, columns)")
    if not image.max(initial=0) > 0:
        raise ValueError("image has no ink: ink must be above 0, as in MNIST")
    if label not in range(10):
        raise ValueError(f"label must be a digit, 0 to 9, got {brief(label)}")
    ink = np.where(image < INK_BOUND * image.max(), 0, image)
    slant = _slant(ink) - _upright_slant(int(label))
    places = []
    for axis, names in ((1, ROWS), (0, COLUMNS)):
        inked = np.flatnonzero(ink.any(axis=axis))
        shift = (inked[0] + inked[-1] - (ink.shape[1 - axis] - 1)) / 2
        places.append(names[_side(shift, SHIFT_BOUND)])
    leaning = {"first": "left", "middle": "upright", "last": "right"}[_side(slant, SLANT_BOUND)]
    return Digit(int(label), "thick" if _width(ink) >= WIDTH_BOUND else "thin", leaning, *places)


def caption(digit: Digit) -> list[str]:
    """Words for an image of a digit.

        a THICKNESS DIGIT leaning SLANT at the ROW COLUMN | a THICKNESS upright DIGIT in the middle | …

    "middle" is said only where there is nothing else to say: at the top, at the left, in the middle.

    Args:
      digit: what the image shows.

    Returns:
      Words: 23 different ones over all captions, 7 to 9 of them in each.

    >>> from jrnn.data.synthetic import Digit, caption
    >>> " ".join(caption(Digit(label=7, thickness="thick", slant="right", row="top", column="left")))
    'a thick seven leaning right at the top left'
    """
    name = NAMES[digit.label]
    named = ["upright", name] if digit.slant == "upright" else [name, "leaning", digit.slant]
    sides = [side for side in (digit.row, digit.column) if side != "middle"]
    place = ["at", "the", *sides] if sides else ["in", "the", "middle"]
    return ["a", digit.thickness, *named, *place]


def _side(value: float, bound: float) -> str:
    return "first" if value < -bound else "last" if value > bound else "middle"


def _width(ink: NDArray[Any]) -> float:
    """Area over half the contour: the total variation of an image is the length of its edges."""
    down, right = np.gradient(np.pad(ink, 1))
    return 2 * float(ink.sum() / np.hypot(down, right).sum())


def _slant(ink: NDArray[Any]) -> float:
    """Columns to the right per row upwards."""
    rows, columns = np.indices(ink.shape)
    rows = rows - (ink * rows).sum() / ink.sum()
    columns = columns - (ink * columns).sum() / ink.sum()
    return -float((ink * rows * columns).sum() / ((ink * rows**2).sum() + 1e-9))


@cache
def _upright_slant(label: int) -> float:
    return _slant(_drawn(label, 1.9, 2.0, 0.0, (CENTRE, CENTRE)))


@cache
def _strokes(label: int) -> NDArray[np.float64]:
    """Lines between neighbouring dots of a glyph, (n, 2 ends, 2), as (row, column) from its centre."""
    dots = {(r, c) for r, line in enumerate(GLYPHS[label]) for c, dot in enumerate(line) if dot == "#"}
    lines = []
    for r, c in sorted(dots):
        for near in ((r, c + 1), (r + 1, c), (r + 1, c + 1), (r + 1, c - 1)):
            corner = {(r, near[1]), (near[0], c)} - {(r, c), near}
            if near in dots and not corner & dots:  # a diagonal beside a corner would fill it
                lines.append(((r, c), near))
    return np.array(lines, np.float64) - (3, 2)


def _drawn(
    label: int, scale: float, width: float, slant: float, centre: tuple[float, float]
) -> NDArray[np.float64]:
    strokes = scale * _strokes(label)
    strokes[..., 1] -= slant * strokes[..., 0]  # rows count downwards
    begin, along = strokes[:, 0] + centre, strokes[:, 1] - strokes[:, 0]
    pixels = np.indices((SIDE, SIDE)).reshape(2, -1, 1)  # (2, pixels, 1) over strokes
    offset = pixels - begin.T[:, None]
    reach = np.clip((offset * along.T[:, None]).sum(axis=0) / (along**2).sum(axis=1), 0, 1)
    distance = np.hypot(*(offset - reach * along.T[:, None])).min(axis=1)
    return np.clip(width / 2 - distance + 0.5, 0, 1).reshape(SIDE, SIDE)
