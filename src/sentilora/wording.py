"""Numbers in sentences: with their unit, and never rounded up to certainty."""


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(difference: float, digits: int = 1) -> str:
    """A difference with its sign: "+0.8", "−1.2"."""
    return f"{difference:+.{digits}f}".replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share: "91.2%". Only 1 is "100.0%"; what would round up to it becomes "99.9%"."""
    return f"{share if share >= 1 else min(share, 1 - 0.1 ** (digits + 2)):.{digits}%}"


def percent_interval(bounds: tuple[float, float], digits: int = 1) -> str:
    """The ends of an interval of shares: "89.1% – 92.9%"."""
    return " – ".join(percent(bound, digits) for bound in bounds)


def as_probability(value: float, digits: int = 4) -> str:
    """The probability of a label: "0.9123". Never "1.0000", because a softmax never reaches 1."""
    return f"{min(value, 1 - 0.1**digits):.{digits}f}"


def as_p(value: float) -> str:
    """A p-value in words."""
    return f"p = {value:.2g}" if value else "p < 1e-300"  # below what a float can hold
