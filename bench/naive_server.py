"""The servers that `serving.py` compares with: one forward pass per request, under one lock.

    python bench/naive_server.py plain --port 8001 [--adapter DIR] [--base BASE]
    python bench/naive_server.py classifier --port 8001 [--adapter DIR] [--base BASE]

plain: FastAPI over transformers and PEFT, as most people's first server is written, with nothing of
sentilora in it. It reads the probability of each label's first token. classifier: the same route
over `sentilora.Classifier`, which scores whole labels, without batching.
"""

import argparse
import json
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

Predict = Callable[[str], list[float]]


class Text(BaseModel):
    input: str


def plain(adapter: str, base: str) -> Predict:
    """A forward pass of transformers and PEFT; on a GPU in NF4 and bfloat16, else in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    prompt = json.loads((Path(adapter) / "classifier.json").read_text(encoding="utf-8"))["prompt"]
    labels = prompt["labels"]
    instruction = prompt["instruction"].replace("{labels}", " or ".join(labels))
    head, tail = prompt["template"].replace("{instruction}", instruction).split("{text}")
    tokenizer = AutoTokenizer.from_pretrained(base)
    options = {"dtype": torch.float32}
    if torch.cuda.is_available():
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options = {"dtype": torch.bfloat16, "quantization_config": nf4, "device_map": {"": 0}}
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, **options), adapter
    )
    model.eval()
    first = [tokenizer(label, add_special_tokens=False).input_ids[0] for label in labels]
    if len(set(first)) < len(first):
        raise SystemExit(
            "some labels begin with the same token: this server cannot tell them apart"
        )

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    before, after = tokenizer(head).input_ids, ids_of(tail)
    room = prompt["max_length"] - len(before) - len(after) - 8

    @torch.inference_mode()
    def predict(text: str) -> list[float]:
        ids = torch.tensor([before + ids_of(text)[:room] + after], device=model.device)
        logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1, first]
        return logits.float().softmax(0).tolist()

    return predict


def classifier(adapter: str, base: str) -> Predict:
    """`Classifier.predict_proba` of one text."""
    from sentilora import Classifier

    loaded = Classifier.load(adapter, base=base)
    loaded.scorer.settle()
    return lambda text: loaded.predict_proba([text])[0].tolist()


def main() -> None:
    from sentilora import embedded_base, shipped_adapter

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["plain", "classifier"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--adapter", default=str(shipped_adapter()))
    parser.add_argument("--base", default=str(embedded_base()))
    options = parser.parse_args()
    predict = {"plain": plain, "classifier": classifier}[options.kind](
        options.adapter, options.base
    )
    app, lock = FastAPI(), threading.Lock()

    @app.post("/v1/classify")
    def classify(text: Text) -> dict[str, list[float]]:
        with lock:
            return {"probs": predict(text.input)}

    uvicorn.run(app, port=options.port, log_level="error")


if __name__ == "__main__":
    main()
