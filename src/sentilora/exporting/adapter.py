"""The adapter as a folder to publish: PEFT's files, what it is scored with, nothing of the run."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.exporting.own_runtime import InTransformers
from sentilora.exporting.prompt_file import chat_template
from sentilora.folders.adapter_folder import AdapterFolder, PeftConfig
from sentilora.folders.checkpoints import seal
from sentilora.folders.classifier_file import BaseReference, ClassifierFile, is_on_disk
from sentilora.folders.probes_file import ProbesFile
from sentilora.folders.run_folder import TrainingResult
from sentilora.models.base_source import KEYWORDS, readable
from sentilora.models.device import place_of_process
from sentilora.models.four_bits import import_bitsandbytes
from sentilora.models.gguf_file import loadable_source
from sentilora.progress import say
from sentilora.scoring.probes import save_probes
from sentilora.shipped import EMBEDDED
from sentilora.wording import quoted

if TYPE_CHECKING:
    import torch

    from sentilora.scoring.classifier import Classifier


def public_base(reference: BaseReference, base_id: str | None) -> str:
    """The base's name for other machines: `base_id`, its hub id, or the last part of its path."""
    name = reference.name
    if base_id is not None:
        return base_id
    if name == EMBEDDED or not is_on_disk(name):
        return name
    short = Path(name).resolve().name
    say(
        f"base: written as {quoted(short)}, because {quoted(name)} is a path of this machine; its "
        "hub id can be written instead (see --help)"
    )
    return short


def write_adapter(
    classifier: "Classifier", folder: AdapterFolder, record: ClassifierFile, base: str, out: Path
) -> None:
    """Write PEFT's two files, classifier.json, probes, tokenizer and checksums.

    base: its name for other machines.
    """
    shutil.copyfile(folder.path / folder.WEIGHTS_FILE, out / folder.WEIGHTS_FILE)
    config = folder.peft.model_dump() | {"base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (out / PeftConfig.FILE).write_text(text + "\n", encoding="utf-8")
    reference = replace(record.base, name=base, path_from_run=None)
    record.model_copy(update={"base": reference}).save(out)
    probes = ProbesFile.of(folder.path)
    if probes is not None:
        probes.save(out)
    else:
        save_probes(classifier, out)
    write_tokenizer(classifier, out)
    step = 0
    if (folder.run / TrainingResult.FILE).is_file():
        step = TrainingResult.load(folder.run).best_step
    seal(out, step)


def write_tokenizer(classifier: "Classifier", out: Path) -> None:
    """Write the tokenizer. Its chat template makes the trained prompt, in place of the base's."""
    tokenizer = copy.deepcopy(classifier.base.tokenizer)
    prompter = classifier.prompter
    tokenizer.chat_template = chat_template(prompter.format.parts, bool(prompter.bos))
    tokenizer.save_pretrained(str(out))


def in_stock_peft(
    out: Path, reference: BaseReference, device: str, dtype: "torch.dtype"
) -> InTransformers:
    """An exported adapter as a reader without sentilora loads it, on its base as in training.

    Raises `DataError` when the base cannot be read.
    """
    import_bitsandbytes()  # before transformers does
    from peft import PeftModel
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
    )

    source = loadable_source(reference.name, KEYWORDS)
    options = {}
    with readable(reference.name, KEYWORDS):
        config = AutoConfig.from_pretrained(
            source, revision=reference.revision, trust_remote_code=False
        )
        is_quantized = getattr(config, "quantization_config", None) is not None
        if reference.quantization == "nf4" and not is_quantized:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=reference.double_quantization,
                bnb_4bit_compute_dtype=dtype,
            )
        base = AutoModelForCausalLM.from_pretrained(
            source,
            revision=reference.revision,
            dtype=dtype,
            device_map={"": place_of_process(device)},
            trust_remote_code=False,
            **options,
        )
        model = PeftModel.from_pretrained(base, str(out))
    tokenizer = AutoTokenizer.from_pretrained(str(out), trust_remote_code=False)
    return InTransformers(model, tokenizer, ("torch", "transformers", "peft", "bitsandbytes"))
