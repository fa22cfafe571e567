"""What ships with the package: a base, an adapter, reviews, a behavior suite, templates."""

from importlib import resources
from pathlib import Path

EMBEDDED = "embedded"  # as base.name: the base that ships; as data.train or data.test: the reviews
# What messages advise in place of the base that ships, and why.
REAL_BASE = (
    "the preset smollm2-135m (without the hub, tools/smollm2.py makes its folder), or mistral-7b "
    "on a GPU"
)
EMBEDDED_KNOWS = "knows English film reviews only"
SENTIMENT_SUITE = "sentiment"


def is_film_reviews(source: str) -> bool:
    """Whether a source is what the recipe was made for: IMDB, known by its name, or what ships."""
    return source == EMBEDDED or "imdb" in Path(source).name.lower()


def embedded_base() -> str:
    """Folder of the base that ships with the package: a small Mistral, quantized to NF4."""
    return str(_asset("tiny"))


def shipped_adapter() -> str:
    """Folder of the adapter that ships with the package, distilled for film reviews."""
    return str(_asset("adapter"))


def adapter_name(folder: str | Path) -> str:
    """Name of an adapter for reports: its folder, but not where the package is installed."""
    return "the adapter that ships" if str(folder) == shipped_adapter() else str(folder)


def reviews_path(split: str) -> Path:
    """JSONL file of the reviews that ship: "train" or "test"."""
    return _asset("reviews", f"{split}.jsonl")


def suite_path() -> Path:
    """TOML file of the behavior suite that ships."""
    return _asset("suites", f"{SENTIMENT_SUITE}.toml")


def page_folder() -> Path:
    """Folder of the page that the server shows: index.html, and the files it names."""
    return _asset("page")


def report_template() -> str:
    """HTML template of the evaluation report, with its style and its scripts inside."""
    page, style, *scripts = (
        _asset(name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js", "report_rows.js")
    )
    return page.replace("/*STYLE*/\n", style).replace("/*SCRIPT*/\n", "\n".join(scripts))


def card_template() -> str:
    """Jinja template of a run's model card."""
    return _asset("card.md").read_text(encoding="utf-8")


def export_card_template() -> str:
    """Jinja template of an export's model card."""
    return _asset("export_card.md").read_text(encoding="utf-8")


def _asset(*parts: str) -> Path:
    return Path(str(resources.files("sentilora").joinpath("assets", *parts)))
