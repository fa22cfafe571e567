"""Requirements on the figures of an evaluation, as gates for CI: `accuracy>=0.9`, `ece<=0.05`.

    bounds = read_requirements(["accuracy.low>=0.9"], {})     # UsageError for an unknown name
    result = judged(result, bounds)
    require_met(result)                                       # RequirementError

A figure's name is its path in the result's JSON, with the name of the label, capability or rating
where a list has one entry for each: `per_label.negative.recall`. The two ends of an interval are
`.low` and `.high` of the figure it belongs to. Figures of the model under evaluation need no
`adapter.` or `base.` in front, and `ece` and `mae` stand for the longer names.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from sentilora.errors import RequirementError, UsageError
from sentilora.evaluation import label_sets, survivors
from sentilora.evaluation.findings import Evaluation, Requirement
from sentilora.prompt import PromptFormat
from sentilora.wording import counted, quoted

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    "<=": lambda value, bound: value <= bound,
    "==": lambda value, bound: value == bound,
    ">": lambda value, bound: value > bound,
    "<": lambda value, bound: value < bound,
}
SHORT = {"ece": "expected_calibration_error", "mae": "mean_absolute_error"}
ENDS = ("low", "high")
SHARES = {
    "accuracy", "macro_f1", "ece", "expected_calibration_error", "roc_auc", "precision", "recall",
    "f1", "coverage", "share_wrong", "share_of_wrong", "share_single", "pass_rate", "p",
}  # fmt: skip
MODELS = ("adapter", "base", "ordered.adapter")  # whose figures need nothing in front
USUAL = ("accuracy", "accuracy.low", "macro_f1", "log_loss", *SHORT, "per_label.LABEL.recall")
ROWS = {"twins", "issues", "failures", "rows", "required"}  # about single rows: no figures
ANY = "*"  # in a name: a label, rating or capability, which the data or a suite have
EVERY = object()  # in place of a value: all names that there can be
KEYS = {
    "comparisons": ("base", "baseline"),
    "differences": ("base", "baseline"),
    "ordered": ("adapter", "base", "baseline"),
    "survivors": tuple(f"{confidence:g}" for confidence in survivors.CONFIDENCES),
    "label_sets": tuple(f"{target:g}" for target in label_sets.TARGETS),
}


@dataclass(frozen=True)
class Bound:
    """A requirement that was read. text: as it was written."""

    text: str
    name: str
    operator: str
    number: float

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return OPERATORS[self.operator](value, self.number)

    def judge(self, figures: Mapping[str, float | None]) -> Requirement:
        """Whether the figure is within the bound. One without a value is not."""
        value = next((figures[name] for name in _candidates(self.name) if name in figures), None)
        if value is None:
            return Requirement(self.text, None, False, "it has no value here")
        # Never rounded across the bound.
        digits = (f"{value:.{n}g}" for n in range(4, 18))
        shown = next(text for text in digits if self.holds(float(text)) == self.holds(value))
        return Requirement(self.text, value, self.holds(value), f"it is {shown}")


def judged(result: Evaluation, bounds: Sequence[Bound]) -> Evaluation:
    """The evaluation, with whether each requirement is met."""
    figures = figures_of(result)
    return replace(result, required=[bound.judge(figures) for bound in bounds])


def require_met(result: Evaluation) -> None:
    """Raise `RequirementError` if a requirement is not met."""
    failed = [each for each in result.required if not each.is_met]
    if not failed:
        return
    seen = "; ".join(f"{each.bound}: {each.finding}" for each in failed)
    raise RequirementError(
        f"{len(failed)} of {counted(len(result.required), 'requirement')} not met: {seen}",
        failed=failed,
        evaluation=result,
    )


# --- reading -------------------------------------------------------------------------------------


def absent_figures(
    is_base_alone: bool,
    target_accuracy: float | None,
    report: str | Path | None,
    suite: str | Path | None,
    label_issues: bool,
) -> dict[str, str]:
    """Beginnings of the names of figures that were not requested, each with what requests them."""
    of_adapter = "adapter baseline comparisons differences calibrated abstention label_sets leakage"
    of_adapter += " ordered.adapter ordered.baseline"
    requests: dict[str, Sequence[str]] = {
        "`adapter`": of_adapter.split() if is_base_alone else (),
        "`target_accuracy`": ("abstention",) if target_accuracy is None else (),
        "`report`": ("explained",) if report is None else (),
        "`suite`": ("behaviour",) if suite is None else (),
        "`label_issues`": () if label_issues else ("label_issues",),
    }
    return {name: f"give {keyword} too" for keyword, group in requests.items() for name in group}


def absent_for(format: PromptFormat) -> dict[str, str]:
    """Beginnings of the names of figures that these labels do not have, each with the reason."""
    reasons = {}
    if not format.ordered:
        reasons["ordered"] = "if the labels are in an order, set prompt.ordered=true"
    if len(format.labels) < label_sets.MIN_LABELS:
        reasons["label_sets"] = f"leave it out: there are fewer than {label_sets.MIN_LABELS} labels"
    return reasons


def read_requirements(require: Iterable[str], absent: Mapping[str, str]) -> list[Bound]:
    """The requirements, checked before anything is read.

    absent: as in `require_measured`. Raises `UsageError` for what is no requirement, for a name
    that no figure has, and for a figure that was not requested.
    """
    if isinstance(require, str) or not isinstance(require, Iterable):
        raise UsageError(
            f"`require` is {require!r:.60}",
            setting="require",
            seen=require,
            remedy='pass a list such as ["accuracy>=0.9"]',
        )
    bounds = [_read(str(text).strip()) for text in require]
    require_measured(bounds, absent, None)
    return bounds


def _read(text: str) -> Bound:
    parts = re.fullmatch(r"(.+?)\s*(>=|<=|==|>|<)\s*([-+.\w]+)", text, re.DOTALL)
    try:
        number = float(parts[3]) if parts else math.nan
    except ValueError:
        number = math.nan
    if parts is None or not math.isfinite(number):
        raise _unreadable(text)
    bound = Bound(text, parts[1], parts[2], number)
    _require_possible(bound)
    return bound


def _require_possible(bound: Bound) -> None:
    """Raise `UsageError` for a bound outside 0 to 1 on a figure that is always inside."""
    parts = [part for part in bound.name.split(".") if part not in ENDS]
    if "confusion" in parts:
        return  # a number of rows; the last part is a label
    figure = parts[-1] if parts else ""
    if figure in SHARES and not 0 <= bound.number <= 1:
        raise UsageError(
            f"`require` has {bound.text!r:.80}, and {figure} is between 0 and 1",
            setting="require",
            seen=bound.text,
            remedy="write a share such as 0.9, not a percentage",
        )


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f"cannot read {text!r:.80} in `require`",
        setting="require",
        seen=text,
        remedy="write a figure, one of >= <= > < ==, and a number: accuracy>=0.9, ece<=0.05, "
        "accuracy.low>=0.9",
    )


def require_measured(
    bounds: Sequence[Bound], absent: Mapping[str, str], labels: Sequence[str] | None
) -> None:
    """Raise `UsageError` for a figure that this evaluation will not measure.

    absent: {beginning of names: what to do to have such figures measured}. labels: of the
    classifier; None as long as they are unknown.
    """
    for bound in bounds:
        full = [name for name in _candidates(bound.name) if _is_name(name, labels)]
        if not full:
            raise _unknown(bound)
        reasons = [
            next((reason for start, reason in absent.items() if name.startswith(f"{start}.")), None)
            for name in full
        ]
        if all(reasons):
            raise UsageError(
                f"`require` has {bound.text!r:.80}, which this evaluation does not measure",
                setting="require",
                seen=bound.text,
                remedy=reasons[0] or "",
            )


def _unknown(bound: Bound) -> UsageError:
    if re.search("[<>=]", bound.name):
        return _unreadable(bound.text)
    every = [*SHORT, *map(without_model, names()), *names()]
    near = difflib.get_close_matches(bound.name, every, 1, 0.5)
    listed = f"docs/reference/figures.md has all names, such as {', '.join(USUAL)}"
    return UsageError(
        f"no figure is named {quoted(bound.name)}, which `require` has in {bound.text!r:.80}",
        setting="require",
        seen=bound.text,
        remedy=f"did you mean {near[0]}? ({listed})" if near else listed,
    )


def without_model(name: str) -> str:
    """A figure's name without the model under evaluation."""
    return re.sub(r"^(ordered\.)?adapter\.", "", name)


# --- names and figures ---------------------------------------------------------------------------


@cache
def names() -> tuple[str, ...]:
    """The name of every figure that an evaluation can have, `*` in place of a label."""
    return tuple(name for name, _ in _walk(Evaluation, "", EVERY, ()))


def figures_of(result: Evaluation) -> dict[str, float | None]:
    """Every figure of an evaluation by its full name; None for those without a value."""
    return dict(_walk(Evaluation, "", result, result.labels))


def _candidates(name: str) -> list[str]:
    """What a name may stand for in full, the likeliest first: a label may be called "ece"."""
    spelled_out = ".".join(SHORT.get(part, part) for part in name.split("."))
    forms = dict.fromkeys((name, spelled_out))
    return [start + form for form in forms for start in ("", *(f"{model}." for model in MODELS))]


def _is_name(name: str, labels: Sequence[str] | None) -> bool:
    """Whether a figure can have this full name. labels: None if they are unknown."""
    return bool(_every_name(None if labels is None else tuple(labels)).fullmatch(name))


@lru_cache(maxsize=2)  # of one evaluation: before its labels are known, and after
def _every_name(labels: tuple[str, ...] | None) -> re.Pattern[str]:
    """What matches every name that a figure can have. labels: None if they are unknown."""
    some = ".+" if labels is None else "|".join(map(re.escape, labels))
    patterns = []
    for template in names():
        of_label = template.startswith("per_label.") or ".confusion." in template
        entry = f"({some if of_label else '.+'})"
        patterns.append(re.escape(template).replace(re.escape(ANY), entry))
    return re.compile("|".join(patterns), re.DOTALL)


def _walk(kind: Any, name: str, value: Any, labels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name and value of each number in a value of this type, or of each there can be."""
    kind = _plain(kind)
    if kind in (int, float):
        yield name, value
    elif value is None:
        return
    elif is_dataclass(kind):
        hints, before = get_type_hints(kind, include_extras=True), ""
        for field in fields(kind):
            inner = _plain(hints[field.name])
            content = EVERY if value is EVERY else getattr(value, field.name)
            if get_origin(inner) is tuple and get_args(inner)[1:] == get_args(inner)[:1]:
                figure = before if field.name == "interval" else field.name
                ends = content if isinstance(content, tuple) else (content, content)
                for end, bound in zip(ENDS, ends, strict=True):
                    yield _join(name, figure.removesuffix("_interval"), end), bound
            elif field.name not in ROWS:
                yield from _walk(inner, _join(name, field.name), content, labels)
            before = field.name
    elif get_origin(kind) in (dict, list) and value and get_args(kind)[-1] is not str:
        for key, entry in _entries(name, value, labels):
            yield from _walk(get_args(kind)[-1], _join(name, key), entry, labels)


def _entries(name: str, value: Any, labels: Sequence[str]) -> list[tuple[str, Any]]:
    """The entries of a list or dictionary, each with its part of a figure's name."""
    if value is EVERY:
        return [(key, EVERY) for key in KEYS.get(name, (ANY,))]
    if isinstance(value, dict):
        return [(str(key), entry) for key, entry in value.items()]
    if value and is_dataclass(value[0]):  # its first field tells it from the others
        keys = [getattr(entry, fields(entry)[0].name) for entry in value]
        keys = [f"{key:g}" if isinstance(key, float) else key for key in keys]
    else:
        keys = list(labels)  # of a confusion matrix
    return list(zip(keys, value, strict=True))


def _plain(kind: Any) -> Any:
    """A type without annotation, and without None."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return _plain(kind)
    return kind


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
