"""Sequence-to-sequence tasks: copies, reversals, dates and sums."""

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import check_width
from jrnn.data.synthetic._drawing import distinct, pick, seeded

Integers = NDArray[np.int32]

MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FORMATS = (
    "{day} {month} {year}",
    "{day} {mon} {year}",
    "{ordinal} {month} {year}",
    "{ordinal} of {month} {year}",
    "the {ordinal} of {month}, {year}",
    "{day}-{mon}-{year}",
    "{month} {day}, {year}",
    "{month} {day} {year}",
    "{mon} {ordinal}, {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday}, {month} {ordinal} {year}",
    "{weekday} the {ordinal} of {month} {year}",
    "{wkd} {day} {mon} {year}",
    "{wkd}, {mon} {day}, {year}",
    "{year} {month} {day}",
    "{year}/{mm}/{dd}",
    "{mm}/{dd}/{year}",  # slashes: the month first
    "{dd}.{mm}.{year}",  # dots: the day first
)
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)


def copies(
    count: int, symbols: int, min_length: int, max_length: int, seed: int
) -> tuple[list[Integers], list[Integers]]:
    """Copy task: sequences and their copies.

        target = source,   length ~ U[min_length, max_length],   symbol ~ U[0, symbols)

    The accuracy of a random guess is 1 / symbols per step.

    Args:
      count: number of pairs.
      symbols: size of the alphabet.
      min_length: minimal length of a source.
      max_length: maximal length of a source.
      seed: random seed.

    Returns:
      `(sources, targets)`, two lists of (Tᵢ,) arrays of integers in [0, symbols).

    Raises:
      ValueError: max_length below min_length.

    >>> from jrnn.data.synthetic import copies
    >>> sources, targets = copies(count=2, symbols=10, min_length=3, max_length=5, seed=0)
    >>> [source.tolist() for source in sources], (targets[0] == sources[0]).all().item()
    ([[5, 2, 3, 0, 0], [0, 1, 8, 6]], True)
    """
    check_width("count", count)
    check_width("symbols", symbols)
    check_width("min_length", min_length)
    if max_length < min_length:
        raise ValueError(f"max_length must be at least min_length={min_length}, got {max_length}")
    random = seeded(seed)
    lengths = random.integers(min_length, max_length + 1, count)
    sources = [random.integers(0, symbols, length, np.int32) for length in lengths]
    return sources, [source.copy() for source in sources]


def reversals(
    count: int, symbols: int, min_length: int, max_length: int, seed: int
) -> tuple[list[Integers], list[Integers]]:
    """Reversal task: sequences, the same as those of `copies`, and their reversals.

        target[t] = source[T − 1 − t]

    The accuracy of a random guess is 1 / symbols per step.

    Args:
      count: number of pairs.
      symbols: size of the alphabet.
      min_length: minimal length of a source.
      max_length: maximal length of a source.
      seed: random seed.

    Returns:
      `(sources, targets)`, two lists of (Tᵢ,) arrays of integers in [0, symbols).

    Raises:
      ValueError: max_length below min_length.

    >>> from jrnn.data.synthetic import reversals
    >>> sources, targets = reversals(count=1, symbols=10, min_length=3, max_length=5, seed=1)
    >>> sources[0].tolist(), targets[0].tolist()
    ([5, 7, 9, 0], [0, 9, 7, 5])
    """
    sources, targets = copies(count, symbols, min_length, max_length, seed)
    return sources, [target[::-1].copy() for target in targets]


def dates(count: int, seed: int) -> list[tuple[str, str]]:
    """Dates in everyday formats, and in ISO 8601.

    Days are uniform over the years 1900 to 2099, in one of 18 English formats, with full or short names,
    ordinals and weekdays; a third is in lower and a third in upper case. Years have four digits; numeric
    dates with slashes are year/month/day or month/day/year, those with dots day.month.year, so that every
    source is unambiguous. Sources are distinct. Always writing the most frequent character of each position
    is right at 46 % of the positions (hyphens alone are 20 %), and for hardly any whole date.

    Args:
      count: number of pairs.
      seed: random seed.

    Returns:
      A list of `(source, target)`.

    >>> from jrnn.data.synthetic import dates
    >>> dates(count=2, seed=2)
    [('the 8th of July, 2067', '2067-07-08'), ('SEPTEMBER 13 1959', '1959-09-13')]
    """
    random = seeded(seed)
    days = (LAST - FIRST).days + 1

    def draw() -> tuple[str, str]:
        day = FIRST + timedelta(days=int(random.integers(days)))
        source = _written(day, pick(random, FORMATS))
        return pick(random, (source, source.lower(), source.upper())), day.isoformat()

    return distinct(draw, count)


def _written(day: date, form: str) -> str:
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    suffix = "th" if day.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return form.format(
        day=day.day,
        dd=f"{day.day:02}",
        ordinal=f"{day.day}{suffix}",
        month=month,
        mon=month[:3],
        mm=f"{day.month:02}",
        weekday=weekday,
        wkd=weekday[:3],
        year=day.year,
    )


def additions(count: int, digits: int, seed: int) -> list[tuple[str, str]]:
    """Sums of two numbers in decimal digits.

        source = "a+b",   target = "c",   c = a + b

    The numbers of digits of a and b are uniform in [1, digits], without leading zeros. Sources are distinct;
    there are 100^digits of them, and they are drawn until nearly all have been seen.

    Args:
      count: number of pairs.
      digits: maximal number of digits in a and b, up to 18.
      seed: random seed.

    Returns:
      A list of `(source, target)`.

    Raises:
      ValueError: all pairs that exist, or nearly so many, or more.

    >>> from jrnn.data.synthetic import additions
    >>> additions(count=3, digits=2, seed=0)
    [('67+34', '101'), ('0+0', '0'), ('8+92', '100')]
    """
    check_width("digits", digits)
    if digits > 18:
        raise ValueError(f"digits must be at most 18, to fit into 64 bits, got {digits}")
    random = seeded(seed)

    def number() -> int:
        figures = int(random.integers(1, digits + 1))
        return int(random.integers(10 ** (figures - 1) if figures > 1 else 0, 10**figures))

    def draw() -> tuple[str, str]:
        a, b = number(), number()
        return f"{a}+{b}", str(a + b)

    return distinct(draw, count)
