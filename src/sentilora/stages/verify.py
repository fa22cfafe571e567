"""Repeat the comparison in an export's certificate, on this machine.

sentilora verify OUT
sentilora verify OUT --adapter support      # with the trained model, and its evaluation rows too
"""

import os
from dataclasses import asdict
from pathlib import Path

from sentilora.errors import UsageError
from sentilora.exporting.certificate import (
    Certificate,
    compare,
    origins_of,
    tolerance_of,
    versions_of,
)
from sentilora.exporting.certified_rows import load_rows, rows_of
from sentilora.exporting.loading import load_export
from sentilora.exporting.prompt_file import PromptFile
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.device import choose_device, free_memory, require_device
from sentilora.progress import say
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.probes import computation_of
from sentilora.stages.export import look_at_run
from sentilora.stages.named_base import named_base
from sentilora.wording import quoted


def verify(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    device: str | None = None,
) -> Certificate:
    """The certificate of an export, with the figures that it has on this machine now.

    folder: that `export` wrote. adapter: the trained adapter, to be scored again, on the evaluation
    rows of its run too; None compares with the answers to public texts that the export brings.
    base: where the base of an adapter is now. device: to score on.

    Raises `DataError` when a file of the export has changed, `UsageError` when it is of another
    adapter, `SentiloraError` when it answers otherwise than the trained model.
    """
    require_device(device or "auto")
    base = named_base(base)
    folder = Path(os.path.expanduser(folder))
    certificate = Certificate.of(folder)
    if base is not None and certificate.kind != "adapter" and adapter is None:
        raise base_not_read(folder, certificate.kind, base)
    prompt = PromptFile.load(folder)
    rows, computation = load_rows(folder), certificate.trained
    if adapter is not None:
        trained = AdapterFolder.open(adapter)
        if trained.weights_digest() != certificate.adapter_sha256:
            raise UsageError(
                f"{quoted(folder)} was made from another adapter than {quoted(trained.path)}",
                setting="adapter",
                seen=str(trained.path),
                remedy="name the adapter that was exported, or leave out `adapter`",
            )
        _, evaluation = look_at_run(trained)
        classifier = Classifier.load(trained, base=base, device=device)
        rows, computation = rows_of(classifier, evaluation), computation_of(classifier)
        del classifier
        free_memory()
    elif certificate.rows > len(rows):
        say(
            f"compared on the {len(rows):,} public texts alone; with the trained adapter named, "
            f"the {certificate.rows - len(rows):,} evaluation rows of its run are compared too"
        )
    reference = None
    if certificate.kind == "adapter":
        reference = AdapterFolder.open(folder).base_to_load(base)
    place = choose_device(device or "auto")
    runtime = load_export(folder, certificate.kind, certificate.form, reference, place)
    figures = compare(runtime, prompt, rows)
    if not certificate.has_own_tolerance:
        limit = tolerance_of(certificate.form, certificate.weights, computation, runtime)
        certificate = certificate.model_copy(update={"tolerance": limit})
    certificate.require_within(figures)
    return certificate.model_copy(
        update={
            **asdict(figures),
            "origins": origins_of(rows),
            "versions": versions_of(runtime.packages),
        }
    )


def base_not_read(folder: Path, kind: str, base: str | Path) -> UsageError:
    """The error for a base that is named although an export of this kind holds its own."""
    return UsageError(
        f"`base` is where the base of an adapter is, and {quoted(folder)} ({kind}) holds its own",
        setting="base",
        seen=str(base),
        remedy="leave it out, or name the trained adapter too, with `adapter`",
    )
