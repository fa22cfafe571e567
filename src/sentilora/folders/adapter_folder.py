"""An adapter folder: PEFT's two files, and `classifier.json` next to them.

    folder = AdapterFolder.open("./mistral-sentiment-ita")
    folder.classifier.prompt.labels

A folder is opened and checked once, without torch, and then passed on as this record.
"""

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from sentilora.disk import digest_of
from sentilora.errors import DataError, UsageError
from sentilora.folders.checkpoints import (
    WEIGHTS_FILE,
    Checksums,
    checkpoint_folder,
    checkpoints,
    faults_of,
    faults_of_weights,
    run_of,
)
from sentilora.folders.classifier_file import (
    BaseReference,
    ClassifierFile,
    absolute_base,
    is_on_disk,
    may_stand_for,
    require_base_keywords,
)
from sentilora.folders.peft_config import LORA, PeftConfig, require_usable
from sentilora.folders.probes_file import ProbesFile
from sentilora.folders.run_folder import Divergence, TrainingResult
from sentilora.hub import is_gguf, looks_like_hub_id
from sentilora.progress import say
from sentilora.shipped import EMBEDDED
from sentilora.wording import listed, quoted

UNFINISHED = "unfinished-adapter"  # folder in a run's, until the saved adapter was scored again
_REMEDY = "choose a folder in which training or PEFT saved an adapter"


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that holds an adapter. classifier: None for an adapter of plain PEFT."""

    WEIGHTS_FILE: ClassVar[str] = WEIGHTS_FILE

    path: Path
    peft: PeftConfig
    classifier: ClassifierFile | None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The adapter folder at a path, checked.

        Raises `DataError` when the folder is missing, incomplete or damaged, `UsageError` when the
        adapter is of a kind that cannot be used.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(
                f"`adapter` is {path!r:.60}", setting="adapter", seen=path, remedy=_REMEDY
            )
        path = Path(os.path.expanduser(path))
        if not path.is_dir():
            raise DataError(
                f"there is no adapter folder {quoted(path)}",
                setting="adapter",
                seen=str(path),
                remedy=_REMEDY,
            )
        for name in (PeftConfig.FILE, cls.WEIGHTS_FILE):
            if not (path / name).is_file():
                raise _incomplete(path, name)
        if faults := faults_of_weights(path):
            best = _best_checkpoint(path)
            origin = "" if best is None else f" from {quoted(best)}"
            records = [Checksums.FILE]
            if (path / ProbesFile.FILE).is_file():
                records.append(ProbesFile.FILE)
            raise DataError(
                f"{', '.join(faults)}: it is not what training saved",
                setting="adapter",
                seen=str(path),
                remedy=f"restore it{origin}, or remove {' and '.join(records)} if it was changed "
                "on purpose",
            )
        if divergence := Divergence.of(run_of(path)):
            say(f"warning: {quoted(path)} is of a run that failed: {divergence.problem}")
        has_file = (path / ClassifierFile.FILE).is_file()
        classifier = ClassifierFile.load(path) if has_file else None
        peft = PeftConfig.load(path)
        require_usable(path, peft)
        return cls(path, peft, classifier)

    def require_classifier(self, setting: str = "adapter") -> ClassifierFile:
        """What the adapter was trained with. setting: the one that names the folder.

        Raises `UsageError` for an adapter of plain PEFT.
        """
        if self.classifier is None:
            raise UsageError(
                f"{quoted(self.path)} has no {ClassifierFile.FILE} with its labels and its prompt",
                setting=setting,
                seen=str(self.path),
                remedy="give an adapter that sentilora trained",
            )
        return self.classifier

    @property
    def run(self) -> Path:
        """The run's folder: this one, or for a checkpoint its parent."""
        return run_of(self.path)

    def base_to_load(
        self,
        name: str | Path | None = None,
        quantization: Literal["nf4", "none"] | None = None,
    ) -> BaseReference:
        """The base to load: the recorded one, changed as requested. Notices say what is changed.

        name: where it is now. A local base that is not at its recorded path is looked for where it
        lies if it was moved together with the run. Raises `DataError` when it is not there,
        `UsageError` when the adapter cannot be put on a quantized base.
        """
        require_base_keywords(name, quantization)
        recorded = self._recorded_base()
        reference = self._moved(recorded) if name is None else self._named(recorded, str(name))
        before = recorded.quantization
        if quantization is not None and quantization != before:
            if self.classifier is not None:
                say(f"quantization: trained with {before}; scoring with {quantization}")
            reference = replace(reference, quantization=quantization)
        if reference.quantization == "nf4" and self.peft.peft_type != LORA:
            raise UsageError(
                f"the adapter in {quoted(self.path)} is of PEFT's kind {self.peft.peft_type}, "
                "which needs an unquantized base",
                setting="quantization",
                seen="nf4",
                remedy="load it with `quantization`=none",
            )
        return reference

    def _named(self, recorded: BaseReference, name: str) -> BaseReference:
        """The base of this name, loaded as the recorded one is."""
        name = absolute_base(name)
        if name == recorded.name:
            return recorded
        if recorded.name:
            say(
                f"base: {quoted(name)} in place of {quoted(recorded.name)}, which the adapter names"
            )
        return replace(recorded, name=name, revision="main", path_from_run=None)

    def _recorded_base(self) -> BaseReference:
        if self.classifier is not None:
            return self.classifier.base
        return BaseReference(self.peft.base_model_name_or_path or "")

    def _moved(self, recorded: BaseReference) -> BaseReference:
        """The recorded base; by another path if it was moved together with the run's folder."""
        name = recorded.name
        if name == EMBEDDED or is_on_disk(name):
            return recorded
        path = self.run / (recorded.path_from_run or os.path.expanduser(name))
        if name and ((path / "config.json").is_file() or (is_gguf(name) and path.is_file())):
            say(f"base: {quoted(os.path.abspath(path))}, found from the adapter's folder")
            return replace(recorded, name=os.path.abspath(path))
        if looks_like_hub_id(name):
            return recorded
        kind = "file" if is_gguf(name) else "folder"
        fault = f"belongs to the base {quoted(name)}, and there is no such {kind}"
        raise DataError(
            f"the adapter in {quoted(self.path)} {fault if name else 'names no base'}",
            setting="base",
            seen=name,
            remedy="say where the base is now, with `base`",
        )

    def weights_digest(self) -> str:
        """SHA-256 of the adapter's weights."""
        return digest_of(self.path / self.WEIGHTS_FILE)

    def least_probability(self, label_sets: float | None) -> float | None:
        """The probability from which a label is in a text's set; None if no sets are requested.

        label_sets: share of the texts whose set is to have the true label. Raises `UsageError` if
        `evaluate` has stored nothing for it.
        """
        if label_sets is None:
            return None
        stored = self.require_classifier().calibration.label_sets
        if label_sets in list(stored):
            return stored[label_sets]
        shares = listed([f"{share:g}" for share in stored])
        raise UsageError(
            f"{quoted(self.path)} has no label sets"
            + (f" for {label_sets!r:.60}" if stored else ""),
            setting="label_sets",
            seen=label_sets,
            remedy=f"choose {shares}"
            if stored
            else "run evaluate on it, which stores them for three labels or more if there are 300 "
            "evaluation rows",
        )

    def lora_to_continue(self, base_name: str, names: Iterable[str]) -> dict[str, Any]:
        """The adapter's LoRA settings, by name, for a run that starts from this adapter.

        base_name: base of that run. names: the settings to return. Raises `UsageError` when the
        adapter belongs to another base or is not plain LoRA.
        """
        config = self.peft.model_dump()
        lora = {name: config[name] for name in names if config.get(name) is not None}
        if self.peft.peft_type != LORA or not isinstance(lora.get("target_modules"), list):
            raise UsageError(
                f"the adapter in {quoted(self.path)} has peft_type {self.peft.peft_type} and "
                f"target_modules {lora.get('target_modules')!r}",
                setting="adapter",
                seen=str(self.path),
                remedy="start from an adapter with peft_type LORA and a list of target_modules",
            )
        lora["target_modules"] = sorted(lora["target_modules"])
        if self.classifier is not None:  # a plain adapter's shapes are checked when it is loaded
            recorded = self.classifier.base.name
            if not may_stand_for(recorded, base_name):
                elsewhere = "set base.name to the folder in which it is now"
                is_here = recorded == EMBEDDED or is_on_disk(recorded)
                raise UsageError(
                    f"the adapter in {quoted(self.path)} belongs to the base {recorded!r}, but the "
                    f"configuration names {base_name!r}",
                    setting="base.name",
                    seen=base_name,
                    remedy=f"set base.name={shlex.quote(recorded)}"
                    if is_here or looks_like_hub_id(recorded)
                    else elsewhere,
                )
            if absolute_base(recorded) != absolute_base(base_name):
                say(
                    f"base: {quoted(base_name)} in place of {quoted(recorded)}, "
                    "which the adapter names"
                )
        say(f"starting from {quoted(self.path)}, with its LoRA settings (r={lora['r']})")
        return lora


@contextmanager
def new_adapter(run: Path) -> Iterator[Path]:
    """A folder for the files of a run's new adapter, which move to the run's own at the end.

    After an error nothing is left of them, so that nothing looks like a result. PEFT's
    configuration moves last: without it the rest is no adapter yet.
    """
    folder = run / UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    try:
        yield folder
        for path in sorted(folder.iterdir(), key=lambda path: path.name == PeftConfig.FILE):
            path.replace(run / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _best_checkpoint(run: Path) -> Path | None:
    """The best checkpoint of a finished run, which has the run's adapter too, if it is intact."""
    if not (run / TrainingResult.FILE).is_file():
        return None
    best = checkpoint_folder(run, TrainingResult.load(run).best_step)
    return None if faults_of(best) else best


def _incomplete(path: Path, name: str) -> DataError:
    if (path / TrainingResult.FILE).is_file():
        best = _best_checkpoint(path)
        return DataError(
            f"{path / name} is missing",
            setting="adapter",
            seen=str(path),
            remedy=f"restore it from {best}" if best else "restore it, or train again",
        )
    if divergence := Divergence.of(path):
        return DataError(
            f"the run in {quoted(path)} is not finished: {divergence.problem}",
            setting="adapter",
            seen=str(path),
            remedy="train again in another `output_dir`, with a lower training.learning_rate",
        )
    intact = [folder for folder in checkpoints(path).values() if not faults_of(folder)]
    if intact:
        return DataError(
            f"the run in {quoted(path)} is not finished",
            setting="adapter",
            seen=str(path),
            remedy="finish it (train with `resume` and this `output_dir`), or use "
            f"{quoted(intact[-1])}",
        )
    return DataError(
        f"{quoted(path)} holds no adapter: {name} is missing",
        setting="adapter",
        seen=str(path),
        remedy=_REMEDY,
    )
