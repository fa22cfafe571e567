"""Numbers and names in sentences. A number is never rounded up to certainty."""

import re
from collections.abc import Iterable

MAX_LISTED = 10  # names in a line

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def with_article(noun: str) -> str:
    """A noun and its indefinite article: "a DataFrame", "an IterableDataset"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def signed(difference: float, digits: int = 1) -> str:
    """A difference with its sign: "+0.8", "−1.2"."""
    return f"{difference:+.{digits}f}".replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share: "91.2%". Only 1 is "100.0%"; what would round up to it becomes "99.9%"."""
    return f"{share if share >= 1 else min(share, 1 - 0.1 ** (digits + 2)):.{digits}%}"


def percent_interval(bounds: tuple[float, float], digits: int = 1) -> str:
    """The ends of an interval of shares: "89.1% – 92.9%"."""
    return " – ".join(percent(bound, digits) for bound in bounds)


def as_metric(value: float | None) -> str:
    """A metric with four digits: "0.9123", or "–" if it is undefined."""
    return "–" if value is None else f"{value:.4f}"


def as_probability(value: float, digits: int = 4) -> str:
    """The probability of a label: "0.9123". Never "1.0000", because a softmax never reaches 1."""
    return f"{min(value, 1 - 0.1**digits):.{digits}f}"


def as_p(value: float) -> str:
    """A p-value in words: "p = 0.021". It is never rounded across 0.05, which decides."""
    if not value:
        return "p < 1e-300"  # below what a float can hold
    rounded = (f"{value:.{digits}g}" for digits in range(2, 18))
    return "p = " + next(text for text in rounded if (float(text) < 0.05) == (value < 0.05))


def quoted(name: object) -> str:
    """A name that the user chose (a path, a column, a label), in quotes if its ends are unclear.

    They are unclear if it is empty or holds whitespace, quotes or backticks, or what does not
    print: those are escaped.
    """
    text = str(name)
    is_clear = text and text.isprintable() and not re.search(r"[\s'\"`]", text)
    return text if is_clear else repr(text)


def printable(text: str) -> str:
    """A text without characters that control a terminal or the direction of writing: escaped."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def listed(names: Iterable[object]) -> str:
    """Names that the user chose, with commas between them: "good, bad, 'so so'"."""
    return ", ".join(map(quoted, names))


def alternatives(names: Iterable[object]) -> str:
    """Names that the user chose, as alternatives: "good, bad or 'so so'"; ten at most."""
    *others, last = names
    if len(others) >= MAX_LISTED:
        return f"{listed(others[:MAX_LISTED])} or one of {len(others) + 1 - MAX_LISTED:,} more"
    return f"{listed(others)} or {quoted(last)}" if others else quoted(last)
