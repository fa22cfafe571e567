"""`parity.json`: how far an export's answers are from the trained model's, and what it may be.

    certificate = certify(runtime, rows, prompt, …)     # raises when it is too far
    repeat(runtime, rows, prompt)                       # the same figures, of an export at hand

Both sides give a probability to each label after each prompt: the trained model through
`Classifier`, the export through the program that it is made for. LIMITS holds the largest
difference that is allowed.
"""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from sentilora.disk import digest_of
from sentilora.errors import DataError, SentiloraError
from sentilora.exporting.certified_rows import Row, probabilities_of
from sentilora.exporting.own_runtime import OwnRuntime
from sentilora.exporting.prompt_file import PromptFile
from sentilora.folders.claim import contents
from sentilora.folders.probes_file import Computation
from sentilora.folders.records import STRICT, Record
from sentilora.metrics import Share
from sentilora.progress import Progress
from sentilora.scoring.answers import at_temperature
from sentilora.version import __version__
from sentilora.wording import counted, quoted

FORMAT_VERSION = 1
CARD_FILE = "README.md"  # the model card, which its owner may edit
Kind = Literal["adapter", "merged", "gguf", "onnx"]
Form = Literal["float32", "float16", "f16", "bfloat16", "q8_0", "q4_K_M"]
# Largest difference of a probability, by the coarsest number format on the way. docs/results.md has
# what was measured, at most 7.2e-6, 0.0049, 0.0052, 0.088 and 0.195 for the first five, in order.
# A base of 135 M parameters in q4_K_M is over its limit, at 0.57.
LIMITS: dict[Form, float] = {
    "float32": 1e-4,
    "float16": 0.02,
    "f16": 0.02,
    "bfloat16": 0.15,
    "q8_0": 0.25,
    "q4_K_M": 0.35,
}
ORIGINAL_WEIGHTS = 0.25  # merged into the 16-bit base, which is not what was trained


@dataclass(frozen=True, config=STRICT)
class Figures:
    """A comparison of probabilities, export against trained model.

    label_flips: rows with another most probable label. mean_probability_difference: over rows and
    labels. rows_with_other_tokens: rows whose string the export's tokenizer reads otherwise than in
    training; they are scored as it reads them. evaluation_rows, evaluation_flips: of the run's own
    evaluation rows, which are what the adapter is for; the others are public texts.
    """

    rows: Annotated[int, Field(ge=1)]
    label_flips: Annotated[int, Field(ge=0)]
    max_probability_difference: Share
    mean_probability_difference: Share
    rows_with_other_tokens: Annotated[int, Field(ge=0)]
    evaluation_rows: Annotated[int, Field(ge=0)] = 0
    evaluation_flips: Annotated[int, Field(ge=0)] = 0


class Certificate(Record):
    """What an export answered when it was made.

    form: its number format. weights: `trained`, as dequantized from what was trained, or
    `original`, merged into the unquantized base. origins: {where rows are from: number of rows}.
    has_own_tolerance: whether the tolerance was set, instead of derived from the number formats.
    adapter_sha256: of the trained adapter's weights. trained: how the trained model computed.
    sha256: of the export's files, except itself and the model card.
    """

    FILE: ClassVar[str] = "parity.json"
    REMEDY: ClassVar[str] = "export the adapter again"

    format_version: int = FORMAT_VERSION
    kind: Kind
    form: Form
    weights: Literal["trained", "original"]
    rows: Annotated[int, Field(ge=1)]
    origins: dict[str, int]
    label_flips: Annotated[int, Field(ge=0)]
    max_probability_difference: Share
    mean_probability_difference: Share
    rows_with_other_tokens: Annotated[int, Field(ge=0)]
    evaluation_rows: Annotated[int, Field(ge=0)] = 0
    evaluation_flips: Annotated[int, Field(ge=0)] = 0
    tolerance: Share
    has_own_tolerance: bool = False
    labels: list[str]
    adapter_sha256: str
    base: str
    base_revision: str
    trained: Computation
    sha256: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The certificate in an export's folder. Raises `DataError` when its files have changed."""
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {quoted(folder)}",
                setting="folder",
                seen=str(folder),
                remedy="name one that `sentilora export` wrote",
            )
        if not (folder / cls.FILE).is_file():
            raise DataError(
                f"{quoted(folder)} has no {cls.FILE}",
                setting="folder",
                seen=str(folder),
                remedy="name a folder that `sentilora export` wrote",
            )
        record = cls.load(folder)
        for name, digest in record.sha256.items():
            path = folder / Path(name).name
            if not path.is_file() or digest_of(path) != digest:
                fault = "is not what was certified" if path.is_file() else "is missing"
                raise DataError(
                    f"{quoted(path)} {fault}",
                    setting="folder",
                    seen=str(path),
                    remedy="restore it, or export the adapter again",
                )
        return record

    def require_within(self, figures: Figures) -> None:
        """Raise `SentiloraError` when the figures are over the tolerance."""
        if figures.max_probability_difference <= self.tolerance:
            return
        raise SentiloraError(
            f"the export answers otherwise than the trained model: {in_words(figures)}; in "
            f"{self.form} at most {self.tolerance:g} is allowed",
            setting="parity",
            seen=figures.max_probability_difference,
            remedy=_remedy_for(self),
        )


def _remedy_for(certificate: Certificate) -> str:
    if certificate.weights == "original":
        return "merge into the weights that were trained: `weights`=trained"
    formats: dict[Kind, tuple[Form, ...]] = {
        "merged": ("float32", "float16"),
        "gguf": ("f16", "q8_0"),
        "onnx": ("float32",),
    }
    finer = [
        name
        for name in formats.get(certificate.kind, ())
        if LIMITS[name] < LIMITS[certificate.form]
    ]
    if finer:
        names = " or ".join(finer)
        return f"choose a finer `dtype` ({names}), or accept this difference with `tolerance`"
    return "run sentilora verify on another machine, or report it as a bug"


def tolerance_of(form: Form, weights: str, trained: Computation, runtime: OwnRuntime) -> float:
    """The largest difference that number formats account for, on either side."""
    limits = [LIMITS[form], LIMITS[trained.compute_dtype]]
    if runtime.in_bfloat16:
        limits.append(LIMITS["bfloat16"])
    if weights == "original":
        limits.append(ORIGINAL_WEIGHTS)
    return max(limits)


def compare(runtime: OwnRuntime, prompt: PromptFile, rows: Sequence[Row]) -> Figures:
    """Score rows in an export's own runtime, and compare with the trained model's answers.

    Raises `SentiloraError` for a probability that is no number.
    """
    import numpy as np

    log_probs, num_other = [], 0
    with Progress("scoring the export", len(rows)) as progress:
        for row in rows:
            ids = row.input_ids
            if not row.as_tokens:
                ids = runtime.tokens(row.prompt, prompt.adds_bos, prompt.has_special_tokens)
            num_other += ids != row.input_ids
            log_probs.append(runtime.log_probs(ids, prompt.label_ids))
            progress.advance()
    seen = at_temperature(np.array(log_probs), 1.0)
    if not np.isfinite(seen).all():
        num_rows = int((~np.isfinite(seen)).any(1).sum())
        raise SentiloraError(
            f"the export gives no probability in {counted(num_rows, 'row')}: its number format "
            "overflows",
            setting="dtype",
            remedy="choose another `dtype`",
        )
    expected = probabilities_of(rows)
    differences = abs(seen - expected)
    flips = seen.argmax(1) != expected.argmax(1)
    own = np.array([row.origin == "evaluation" for row in rows])
    return Figures(
        rows=len(rows),
        label_flips=int(flips.sum()),
        max_probability_difference=float(f"{differences.max():.3g}"),
        mean_probability_difference=float(f"{differences.mean():.3g}"),
        rows_with_other_tokens=num_other,
        evaluation_rows=int(own.sum()),
        evaluation_flips=int(flips[own].sum()),
    )


def figures_of(certificate: Certificate) -> Figures:
    """The figures in a certificate."""
    return Figures(
        certificate.rows,
        certificate.label_flips,
        certificate.max_probability_difference,
        certificate.mean_probability_difference,
        certificate.rows_with_other_tokens,
        certificate.evaluation_rows,
        certificate.evaluation_flips,
    )


def origins_of(rows: Sequence[Row]) -> dict[str, int]:
    """{where rows are from: number of rows}."""
    return dict(Counter(row.origin for row in rows))


def digests_of(folder: Path) -> dict[str, str]:
    """{name: SHA-256} of an export's files: what answers, here or in another program.

    Without the certificate itself and the model card.
    """
    files = sorted(path for path in contents(folder) if path.is_file())
    others = (Certificate.FILE, CARD_FILE)
    return {path.name: digest_of(path) for path in files if path.name not in others}


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """{name: version} of sentilora and the packages that computed."""
    return {"sentilora": __version__, **{name: version(name) for name in packages}}


def in_words(figures: Figures) -> str:
    """The figures as one clause."""
    other = figures.rows_with_other_tokens
    tokens = f", {counted(other, 'row')} read as other tokens" if other else ""
    num_own = figures.evaluation_rows
    own = f", {figures.evaluation_flips:,} among the {num_own:,} evaluation rows" if num_own else ""
    return (
        f"probabilities differ by up to {figures.max_probability_difference:g} "
        f"({figures.mean_probability_difference:g} on average), "
        f"{counted(figures.label_flips, 'label')} of {counted(figures.rows, 'row')} changed"
        f"{own}{tokens}"
    )
