"""Fine-tune a causal language model in 4 bits with LoRA so that it classifies texts.

    import sentilora
    sentilora.Classifier.load().predict(["A lovely film."])

Each public name is imported on first use, so `import sentilora` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentilora.config import Config, load_config
    from sentilora.scoring.classifier import Classifier
    from sentilora.shipped import embedded_base, shipped_adapter
    from sentilora.stages.check import check
    from sentilora.stages.convert import convert
    from sentilora.stages.demo import demo
    from sentilora.stages.distill import distill
    from sentilora.stages.env import env
    from sentilora.stages.evaluate import evaluate
    from sentilora.stages.export import export
    from sentilora.stages.predict import predict
    from sentilora.stages.repeat import train_seeds, train_sizes
    from sentilora.stages.serve import serve
    from sentilora.stages.train import train
    from sentilora.stages.verify import verify
    from sentilora.version import __version__

__all__ = [
    "Classifier",
    "Config",
    "__version__",
    "check",
    "convert",
    "demo",
    "distill",
    "embedded_base",
    "env",
    "evaluate",
    "export",
    "load_config",
    "predict",
    "serve",
    "shipped_adapter",
    "train",
    "train_seeds",
    "train_sizes",
    "verify",
]

_HOME = {
    "__version__": "version",
    "Classifier": "scoring.classifier",
    "Config": "config",
    "check": "stages.check",
    "convert": "stages.convert",
    "demo": "stages.demo",
    "distill": "stages.distill",
    "env": "stages.env",
    "predict": "stages.predict",
    "embedded_base": "shipped",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "load_config": "config",
    "serve": "stages.serve",
    "shipped_adapter": "shipped",
    "train": "stages.train",
    "train_seeds": "stages.repeat",
    "train_sizes": "stages.repeat",
    "verify": "stages.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sentilora' has no attribute {name!r}")
    value = getattr(import_module(f"sentilora.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
