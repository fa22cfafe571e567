"""Behavior tests: a TOML file of templates, and the cases that they expand to.

    [lists]
    dish = ["soup", "bread"]
    name = ["Ida", "Tomasz", "Amara"]

    [[tests]]
    capability = "negation"
    kind = "minimum functionality"              # the answer must be `label`
    label = "negative"
    texts = ["The {dish} was not good."]

    [[tests]]
    capability = "named entities"
    kind = "invariance"                         # the answer must stay what it is
    texts = ["[{name}|{name2}] burnt my {dish}."]

    [[tests]]
    capability = "intensifiers"
    kind = "directional"                        # `label` must not become less likely
    label = "positive"
    texts = ["The {dish} was [|really ]good."]

`{dish}` is filled from a list, `{name2}` with another entry of the same list. `[before|after]` is
the change: the case is the pair of both texts. With `typos = N` the changed text is instead the
first one with N of its words misspelled.

Nothing is random: the order in which a template takes a list's entries follows from the template
itself, so a new template or test leaves all other cases unchanged.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentilora.data.text import fault_of
from sentilora.errors import DataError, UsageError
from sentilora.shipped import SENTIMENT_SUITE, suite_path
from sentilora.wording import listed, quoted

MAX_FILLINGS = 3  # per template: more of them add little
MIN_LETTERS = 6  # of a word to misspell: shorter ones easily become other words
FUNCTIONALITY, INVARIANCE, DIRECTIONAL = "minimum functionality", "invariance", "directional"
PLACE = re.compile(r"\{([^\W\d]+)([2-9]?)\}")
CHANGE = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")
WORD = re.compile(rf"[^\W\d_]{{{MIN_LETTERS},}}")


@dataclass(frozen=True)
class Case:
    """A text, or a pair of texts, and what is expected of a classifier.

    template: the text in the file. label: None for an invariance. changed: the second text; None
    for minimum functionality.
    """

    capability: str
    kind: str
    template: str
    label: str | None
    text: str
    changed: str | None


@dataclass(frozen=True)
class Suite:
    """The distinct cases of a file, in its order."""

    source: str
    cases: tuple[Case, ...]

    @property
    def texts(self) -> list[str]:
        """Every text once, also where several cases change the same one."""
        pairs = ((case.text, case.changed) for case in self.cases)
        return list(dict.fromkeys(text for pair in pairs for text in pair if text is not None))

    def require_labels(self, labels: Sequence[str]) -> None:
        """Raises `UsageError` when a case expects a label that the classifier does not have."""
        expected = list(dict.fromkeys(case.label for case in self.cases if case.label is not None))
        unknown = [label for label in expected if label not in labels]
        if unknown:
            raise UsageError(
                f"the suite {quoted(self.source)} expects {listed(expected)}, the classifier "
                f"answers {listed(labels)}",
                setting="suite",
                seen=self.source,
                remedy=f"write your own labels and texts in a copy of {quoted(suite_path())}, and "
                "give that file",
            )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Test(_Strict):
    capability: str = Field(min_length=1)
    kind: Literal["minimum functionality", "invariance", "directional"]
    label: str | None = None
    typos: int = Field(0, ge=0)
    texts: list[str] = Field(min_length=1)


class _File(_Strict):
    lists: dict[str, list[str]] = {}
    tests: list[_Test] = Field(min_length=1)


def load_suite(source: str | Path = SENTIMENT_SUITE) -> Suite:
    """The suite in a TOML file, or the shipped one: "sentiment".

    Raises `DataError` that names the test and the text at fault when the suite cannot be used.
    """
    path = suite_path() if source == SENTIMENT_SUITE else Path(source)

    def refusal(problem: str, remedy: str = "") -> DataError:
        return DataError(problem, setting="suite", seen=str(source), remedy=remedy)

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        remedy = "give a TOML file, or take the shipped suite with `suite`"
        raise refusal(f"there is no suite {quoted(path)}", remedy) from error
    except (OSError, ValueError, RecursionError) as error:
        remedy = "it must be a TOML file in UTF-8"
        raise refusal(f"cannot read the suite {quoted(path)}: {error}", remedy) from error
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise refusal(f"the suite {quoted(path)}: {_fault(error)}") from error
    try:
        cases = [case for test in file.tests for case in _cases(test, file.lists)]
    except ValueError as error:
        raise refusal(f"the suite {quoted(path)}: {error}") from error
    return Suite(str(source), tuple(dict.fromkeys(cases)))


def _fault(error: ValidationError) -> str:
    """What is wrong and what to do, with tests and texts counted from 1."""
    fault: Any = error.errors(include_url=False)[0]
    where = ""
    for part in fault["loc"]:
        where += f" {part + 1}" if isinstance(part, int) else f" {part}"
    where = where.strip().replace("tests ", "test ").replace("texts ", "text ")
    match fault["type"]:
        case "missing" if fault["loc"] == ("tests",):
            return (
                f"it has no [[tests]]; for an example see the shipped suite: {quoted(suite_path())}"
            )
        case "missing":
            return f"{where} is missing"
        case "too_short" | "string_too_short":
            return f"{where} is empty; fill it or remove it"
        case "extra_forbidden":
            return f"{where} is not a key of a suite; remove it or correct its spelling"
        case "literal_error":
            return f"{where} is {fault['input']!r:.60}; it must be {fault['ctx']['expected']}"
        case _:
            rule = fault["msg"].removeprefix("Input ")
            return f"{where} is {fault['input']!r:.60}; it {rule}"


# --- from templates to cases ---------------------------------------------------------------------


def _cases(test: _Test, lists: Mapping[str, Sequence[str]]) -> Iterator[Case]:
    """The cases of one test. Raises `ValueError` that names the template."""
    if test.kind == INVARIANCE and test.label is not None:
        raise ValueError(f"{test.capability}: an invariance test takes no label; remove it")
    if test.kind != INVARIANCE and not test.label:
        raise ValueError(f"{test.capability}: a {test.kind} test needs a label")
    for template in test.texts:
        where = f"{test.capability}, {template!r:.80}:"
        has_change = CHANGE.search(template) is not None
        if test.kind == FUNCTIONALITY and (has_change or test.typos):
            raise ValueError(
                f"{where} a {FUNCTIONALITY} test has single texts; remove [before|after] or typos"
            )
        if test.kind != FUNCTIONALITY and has_change == bool(test.typos):
            raise ValueError(f"{where} write the change as [before|after], or set typos")
        for filling in _fillings(template, lists, where):
            text, changed = _texts(test, filling, where)
            yield Case(test.capability, test.kind, template, test.label, text, changed)


def _texts(test: _Test, filling: str, where: str) -> tuple[str, str | None]:
    """The text, and the changed one of a pair, each of them usable."""
    text, changed = CHANGE.sub(r"\1", filling), None
    if test.kind != FUNCTIONALITY:
        changed = misspell(text, test.typos) if test.typos else CHANGE.sub(r"\2", filling)
        if changed == text:
            raise ValueError(
                f"{where} nothing changes in {text!r:.80}"
                + (f": no word has {MIN_LETTERS} letters" if test.typos else "")
            )
    for one in (text, changed):
        if one is not None and (fault := fault_of(one)):
            raise ValueError(f"{where} a text is {fault}")
        if one is not None and (rest := re.search(r"[][{}|]", one)):
            raise ValueError(
                f"{where} {rest[0]!r} is left over in {one!r:.80}; write {{list}} and "
                "[before|after]"
            )
    return text, changed


def _fillings(template: str, lists: Mapping[str, Sequence[str]], where: str) -> list[str]:
    """The filled template: a text per entry of its longest list, at most `MAX_FILLINGS`."""
    entries: dict[str, list[str]] = {}
    for place in PLACE.finditer(template):
        name, ahead = place[1], int(place[2] or 1) - 1  # {name2} is one entry ahead of {name}
        unique = set(lists.get(name, ()))
        if len(unique) <= ahead:
            raise ValueError(
                f"{where} {place[0]} needs a list {name!r} of {ahead + 1} or more entries under "
                f"[lists], which has {', '.join(lists) or 'none'}"
            )
        ordered = sorted(unique, key=lambda entry: _number(f"{template}\0{entry}"))
        entries[place[0]] = ordered[ahead:] + ordered[:ahead]

    def fill(number: int) -> str:
        def entry(place: re.Match[str]) -> str:
            values = entries[place[0]]
            return values[number % len(values)]

        return PLACE.sub(entry, template)

    longest = max(map(len, entries.values()), default=1)
    return [fill(number) for number in range(min(MAX_FILLINGS, longest))]


def misspell(text: str, num_words: int) -> str:
    """The text with a typo in `num_words` of its words of six letters or more.

    A typo swaps two neighboring letters or drops one, never the first or the last, so that a reader
    still recognizes the word. Words that carry the sentiment are misspelled like any other.
    """
    words = sorted(WORD.finditer(text), key=lambda word: _number(f"{text}\0{word.start()}"))
    for word in sorted(words[:num_words], key=lambda word: -word.start()):
        letters = word[0]
        inner = range(1, len(letters) - 1)
        typos = [letters[:i] + letters[i + 1 :] for i in inner]
        typos += [letters[:i] + letters[i + 1] + letters[i] + letters[i + 2 :] for i in inner[:-1]]
        typos = [typo for typo in dict.fromkeys(typos) if typo != letters]
        typo = typos[_number(f"{text}\0{letters}") % len(typos)]
        text = text[: word.start()] + typo + text[word.end() :]
    return text


def _number(text: str) -> int:
    """A number derived from a text, the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
