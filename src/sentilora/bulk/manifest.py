"""What the units in a folder were computed with: `manifest.json`, written before the first of them.

Everything that determines a byte of a unit is in it: what is read, what scores it, and how. A job
with another manifest is refused, so that the units of a folder belong together.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from sentilora.disk import written_aside
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import Calibration
from sentilora.folders.records import Record
from sentilora.places import create, is_remote
from sentilora.prompt import PromptFormat
from sentilora.scoring.classifier import Classifier
from sentilora.version import __version__
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    from sentilora.scoring.batching import PassSizes

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "numpy", "pyarrow")
_SAMPLE = 2**14  # values of each weight that its digest is of; another base differs in all of them


class Manifest(Record):
    """The content of `manifest.json`.

    input: what is read. output: how it is written. adapter: what scores. computation: how, after
    the model was loaded. versions: of the packages that compute.
    """

    FILE: ClassVar[str] = "manifest.json"
    REMEDY: ClassVar[str] = "choose another `output`"

    rows_per_unit: int = Field(gt=0)
    input: dict[str, Any]
    output: dict[str, Any]
    adapter: dict[str, Any]
    versions: dict[str, Any]
    computation: dict[str, Any] = Field(default_factory=dict)

    @property
    def pass_sizes(self) -> "PassSizes | None":
        """What determines which texts share a pass of the fast engine; None without it."""
        from sentilora.scoring.batching import PassSizes

        sizes = self.computation["passes"]
        return None if sizes is None else PassSizes.from_dict(sizes)

    def create(self, folder: Path) -> Self:
        """Write the file; returns what is in it, which another job may have written first."""
        path = folder / self.FILE
        content = json.dumps(self.content(), indent=2) + "\n"
        if is_remote(path):
            try:
                create(path, content)
            except FileExistsError:
                return self.load(folder)
            return self
        aside = folder / f".{self.FILE}.{os.getpid()}"
        with written_aside(aside) as partial:
            partial.write_text(content, encoding="utf-8")
        try:
            os.link(aside, path)
        except FileExistsError:
            return self.load(folder)
        except OSError:  # a file system without links
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
            for other in folder.glob(f".{self.FILE}.*"):  # of jobs that were killed
                with suppress(OSError):
                    other.unlink()
        return self

    def differences(self, other: "Manifest") -> list[str]:
        """The names of the values that differ in another manifest.

        An empty computation in it stands for one that is not known yet.
        """
        recorded, now = dict(_flat(self.content())), dict(_flat(other.content()))
        if not other.computation:
            recorded = {k: v for k, v in recorded.items() if not k.startswith("computation.")}
        return [k for k in (recorded | now) if recorded.get(k) != now.get(k)]

    def require_same(self, other: "Manifest", folder: Path, setting: str = "output") -> None:
        """Raise `UsageError` if another manifest, that of a job of now, differs from this one."""
        names = self.differences(other)
        if not names:
            return
        recorded, now = dict(_flat(self.content())), dict(_flat(other.content()))
        first, *more = names
        others = f", and in {counted(len(more), 'more value')}: {', '.join(more)}" if more else ""
        raise UsageError(
            f"the units in {quoted(folder)} were computed with other values: {first} was "
            f"{_shown(first, recorded)}, and is {_shown(first, now)} now{others}",
            setting=setting,
            seen=first,
            remedy="go on as it was begun, choose another `output`, or remove that folder",
        )


def _shown(name: str, values: Mapping[str, Any]) -> str:
    """A value as an error shows it. Of a digest the beginning tells enough."""
    value = values.get(name)
    return f"{value:.8}…" if name.endswith("sha256") and value else f"{value!r:.80}"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def adapter_record(
    folder: AdapterFolder,
    format: PromptFormat,
    quantization: str | None,
    label_sets: float | None,
) -> dict[str, Any]:
    """What scores: digests of weights and prompt, and what turns scores into answers.

    quantization, label_sets: as in `Classifier.load`, which raises the same errors.
    """
    calibration = folder.classifier.calibration if folder.classifier else Calibration()
    return {
        "weights_sha256": folder.weights_digest(),
        "prompt_sha256": _digest(format.to_dict()),
        "labels": list(format.labels),
        "quantization": quantization,
        "temperature": calibration.temperature,
        "abstain_below": calibration.abstain_below,
        "least_probability": folder.least_probability(label_sets),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that compute and write."""
    return {"sentilora": __version__, **{name: version(name) for name in _PACKAGES}}


def computation_of(classifier: Classifier, sizes: "PassSizes | None") -> dict[str, Any]:
    """How a loaded classifier computes from here on. sizes: those of a job that goes on."""
    import torch

    runtime, base = classifier.runtime, classifier.base
    on_gpu = base.device.startswith("cuda")
    passes = classifier.scorer.fix_passes(sizes)
    return {
        "device": torch.cuda.get_device_name(base.device) if on_gpu else "cpu",
        "threads": None if on_gpu else torch.get_num_threads(),
        "dtype": str(base.dtype).removeprefix("torch."),
        "attention": runtime.attn_implementation,
        "base_matmul": runtime.base_matmul,
        "max_left_out": runtime.max_left_out,
        "batch_size": runtime.batch_size if passes is None else None,
        "passes": None if passes is None else asdict(passes),
        "model_sha256": _digest_of_model(classifier.model),
    }


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_model(model: Any) -> str:
    """SHA-256 of the names, shapes and types of a model's weights, and of some of their values."""
    import torch

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        values = weight.data.reshape(-1)
        some = values[:: max(1, len(values) // _SAMPLE)].contiguous().cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
