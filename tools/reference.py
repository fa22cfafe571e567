"""The reference pages: command line, settings, and figures, each from what the code says of them.

    python tools/reference.py            writes docs/reference/cli.md, settings.md and figures.md
    python tools/reference.py --check    exits with 1 when a page is not what it would write

The page of the command line is Typer's (`typer MODULE utils docs`). For the settings there is no
such tool: the presets say what each is for, and pydantic's models which values it may have.
"""

import argparse
import contextlib
import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # this checkout's, whatever is installed

NOTICE = "<!-- Written by tools/reference.py from {}: change that, and run it again. -->"
PRESETS = ROOT / "src/sentilora/presets"
PARENT = PRESETS / "defaults.toml"  # of all presets: it holds every setting
MORE_MODELS = ("base.", "baseline.", "calibrated.test.", "leakage.without.")
WITH_EMBEDDED = "only with the reviews that ship"


class Setting(NamedTuple):
    """A setting of a preset. value: as TOML, or the text itself when it has several lines."""

    name: str
    value: str
    comment: str


def command_line() -> str:
    """The page of the command line: every verb with its arguments and options."""
    from typer.cli import app as typer_app

    printed = io.StringIO()
    arguments = [
        "sentilora.cli.app",
        "utils",
        "docs",
        "--name",
        "sentilora",
        "--title",
        "Command line",
    ]
    with contextlib.redirect_stdout(printed):
        typer_app(arguments, standalone_mode=False)
    notice = NOTICE.format("the help texts in src/sentilora/cli")
    return f"{notice}\n\n{printed.getvalue().strip()}\n"


def settings() -> str:
    """The page of the settings: each with its default, the values it may have, and its comment."""
    parts = [
        NOTICE.format("the presets in src/sentilora/presets"),
        "# Settings",
        "Change a setting on the command line (`training.learning_rate=1e-4`), or in a TOML file\n"
        "that holds only what differs (`--config my.toml`). A preset (`--preset NAME`) is such a\n"
        f"file that ships. The defaults are those of [`{PARENT.name}`](../../"
        f"{PARENT.relative_to(ROOT).as_posix()}).",
    ]
    all_settings = list(settings_in(PARENT.read_text(encoding="utf-8")))
    for section, group in groupby(all_settings, lambda item: item.name.rpartition(".")[0]):
        rows = ["| setting | default | values | what it is |", "|---|---|---|---|"]
        longer = []
        for name, value, comment in group:
            if "\n" in value:
                longer.append(f"`{name}`:\n\n```text\n{value}```")
            shown = "below" if "\n" in value else f"`{cell(value)}`"
            choices = ", ".join(f"`{choice}`" for choice in choices_of(name))
            rows.append(f"| `{name}` | {shown} | {choices} | {cell(comment)} |")
        parts += [f"## `{section}`"] if section else []
        parts += ["\n".join(rows), *longer]
    parts += [zoo()]
    parts += [preset(path) for path in sorted(PRESETS.glob("*.toml")) if path != PARENT]
    return "\n\n".join(parts) + "\n"


def zoo() -> str:
    """The presets side by side, as `sentilora check --list` shows them."""
    from sentilora.stages.preset_list import HEADINGS, NOTES, rows

    lines = [f"| {' | '.join(row)} |" for row in (HEADINGS, ["---"] * len(HEADINGS), *rows())]
    notes = "\n".join(f"- {note}" for note in NOTES)
    return "\n".join(["## The presets", "", *lines, "", notes])


def preset(path: Path) -> str:
    """What a preset is for, and what it changes in its parent."""
    source = path.read_text(encoding="utf-8")
    rows = ["| setting | value | why |", "|---|---|---|"]
    for name, value, comment in settings_in(source):
        if name == "inherit" or name.startswith("about."):
            continue
        key = name.removeprefix("with_embedded_data.")
        comment = comment if key == name else "; ".join(filter(None, [WITH_EMBEDDED, comment]))
        rows.append(f"| `{key}` | `{cell(value)}` | {cell(comment)} |")
    about = [
        line[1:].strip() for line in source.partition("\n\n")[0].splitlines() if line[:1] == "#"
    ]
    about = [line for line in about if not line.startswith("sentilora ")]  # the command
    parent = tomllib.loads(source)["inherit"]
    table = "\n".join(rows)
    return f"## The preset `{path.stem}`\n\n{' '.join(about)} It starts from `{parent}`.\n\n{table}"


def settings_in(source: str) -> Iterator[Setting]:
    """Every setting of a preset, in its order."""
    section, above = "", ""
    lines = iter(source.splitlines())
    for line in lines:
        setting = re.fullmatch(r"(\w+) = (.*)", line)
        if heading := re.fullmatch(r"\[([\w.]+)\]", line):
            section = f"{heading[1]}."
        elif setting and setting[2] == '"""':
            text = "".join(f"{rest}\n" for rest in iter(lambda: next(lines), '"""'))
            yield Setting(section + setting[1], text, above)
        elif setting:
            value, comment = value_and_comment(setting[2])
            yield Setting(section + setting[1], value, comment or above)
        above = line[1:].strip() if line.startswith("#") else ""


def value_and_comment(text: str) -> tuple[str, str]:
    """A line's value and its comment, which begins at the first `#` that is not in the value."""
    for place in (match.start() for match in re.finditer("#", text)):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads(f"value = {text[:place]}")
            return text[:place].strip(), text[place + 1 :].strip()
    return text.strip(), ""


def choices_of(name: str) -> list[str]:
    """The values that a setting may have, as TOML, where they are few; empty for any other."""
    from sentilora.config import Config

    annotation: Any = Config
    for key in name.split("."):
        annotation = annotation.model_fields[key].annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return [json.dumps(choice) for choice in choices]


def cell(text: str) -> str:
    """A text that does not end its cell of a table."""
    return text.replace("|", r"\|")


def figures() -> str:
    """The page of the figures that can be required, those that differ in one part together."""
    from sentilora.evaluation.requirements import ANY, ENDS, KEYS, SHORT, names, without_model

    ends = "|".join(f".{end}" for end in ENDS)
    keys = "|".join(re.escape(key) for each in KEYS.values() for key in each)
    entries: dict[str, bool] = {}  # whether it is an interval's
    for name in names():
        if name.startswith(MORE_MODELS):
            continue
        figure, _, end = name.rpartition(".")
        shown = without_model(figure if end in ENDS else name)
        shown = re.sub(rf"^({'|'.join(KEYS)})\.(?:{keys})\.", rf"\1.{ANY}.", shown)
        entries[shown] = entries.get(shown, False) or end in ENDS
    lines = [
        f"- `{name}[{ends}]`" if has_ends else f"- `{name}`" for name, has_ends in entries.items()
    ]
    models = ", ".join(f"`{model}`" for model in MORE_MODELS)
    short = ", ".join(f"`{name}` for `{word}`" for name, word in SHORT.items())
    parts = [
        NOTICE.format("the names in src/sentilora/evaluation/requirements.py"),
        "# Figures",
        "What `sentilora evaluate --require` takes, as in `accuracy>=0.9`. The result as JSON has\n"
        f"each figure at the path that is its name. `{ANY}` is a label, rating, capability,\n"
        f"confidence, target, or `base` or `baseline`. `[{ends}]` names an end of the interval.\n"
        f"A model's figures also follow {models}.\n"
        f"Short: {short}.",
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


PAGES = {"cli.md": command_line, "settings.md": settings, "figures.md": figures}


def main() -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    check = parser.parse_args().check
    folder, stale = ROOT / "docs/reference", []
    for name, page in PAGES.items():
        path, text = folder / name, page()
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
    if stale:
        print(f"stale: {', '.join(stale)}; run python tools/reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
