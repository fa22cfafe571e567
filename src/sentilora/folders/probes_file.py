"""`probes.json`: what an adapter answered at the end of training to texts that everybody may read.

Who loads the adapter scores the same texts, and so knows whether it answers as it was trained.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from sentilora.errors import DataError
from sentilora.folders.records import STRICT, Record
from sentilora.wording import quoted

FORMAT_VERSION = 1
MAX_TEXTS = 1000  # each is scored when the adapter is loaded; training writes 16


@dataclass(frozen=True, config=STRICT)
class Computation:
    """On what, and how, scores were computed.

    device_name: the GPU's name, or the kind of CPU. engine: whether fast layers were in place.
    weights: quantization of the base, and whether it came from a GGUF file.
    """

    device: Literal["cpu", "cuda"]
    device_name: str
    compute_dtype: Literal["float16", "bfloat16", "float32"]
    attn_implementation: str
    engine: Literal["fast", "reference"]
    base_matmul: str
    weights: str


class ProbesFile(Record):
    """Texts or records, and the labels' log-probabilities after them, before any temperature.

    log_probs: per text one number for each label. prompt_sha256: of the prompt's format and the
    texts. tokens_sha256: of what the model read, and of the labels' tokens. versions: of the
    packages that computed.
    """

    FILE: ClassVar[str] = "probes.json"
    REMEDY: ClassVar[str] = "restore it, or remove it to load the adapter unchecked"

    format_version: int
    computation: Computation
    versions: dict[str, str]
    prompt_sha256: str
    tokens_sha256: str
    labels: list[str]
    texts: Annotated[list[str | dict[str, str]], Field(min_length=1, max_length=MAX_TEXTS)]
    log_probs: list[list[Annotated[float, Field(allow_inf_nan=False)]]]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        shape = [len(self.labels)] * len(self.texts)
        if [len(row) for row in self.log_probs] != shape:
            raise ValueError("its 'log_probs' do not match its 'texts' and 'labels'")
        return self

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The record in an adapter's folder; None if the folder has none.

        Raises `DataError` when it is damaged or has a newer format.
        """
        path = folder / cls.FILE
        if not path.is_file():
            return None
        record = cls.load(folder)
        if record.format_version > FORMAT_VERSION:
            raise DataError(
                f"{quoted(path)} has format {record.format_version}, but this sentilora reads "
                f"formats up to {FORMAT_VERSION}",
                setting=cls.FILE,
                seen=record.format_version,
                remedy="update sentilora, or remove the file to load the adapter unchecked",
            )
        return record
