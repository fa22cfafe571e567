"""What ships inside the package: a base, an adapter, reviews, a behavior suite, the report page."""

from importlib import resources
from pathlib import Path

EMBEDDED = "embedded"  # the name of the base and of the reviews that ship
SENTIMENT_SUITE = "sentiment"


def embedded_base() -> str:
    """Folder of the small Mistral that ships with the package, already in NF4."""
    return str(_asset("tiny"))


def shipped_adapter() -> str:
    """Folder of the adapter that ships with the package: the recipe on 2,000 IMDB reviews."""
    return str(_asset("adapter"))


def adapter_name(folder: str | Path) -> str:
    """A name for an adapter's folder that does not reveal where the package is installed."""
    return "the adapter that ships" if str(folder) == shipped_adapter() else str(folder)


def reviews_path(split: str) -> Path:
    """JSONL file of the reviews that ship: "train" or "test"."""
    return _asset("reviews", f"{split}.jsonl")


def suite_path() -> Path:
    """TOML file of the behavior suite that ships."""
    return _asset("suites", f"{SENTIMENT_SUITE}.toml")


def report_template() -> str:
    """The HTML page that an evaluation's figures are put into."""
    return _asset("report.html").read_text(encoding="utf-8")


def card_template() -> str:
    """The Jinja template of a model card."""
    return _asset("card.md").read_text(encoding="utf-8")


def _asset(*parts: str) -> Path:
    return Path(str(resources.files("sentilora").joinpath("assets", *parts)))
