"""Tries a recipe's optimizer, schedule and tracker: does transformers support them here?

    for setting, fault in recipe_faults(optim="paged_adamw_8bit", ...).items():
        print(setting, fault)

Runs before a base is loaded, which takes minutes for a large one.
"""

import difflib
from collections.abc import Callable, Iterable

from sentilora.errors import UsageError, first_line
from sentilora.models.four_bits import import_bitsandbytes


def recipe_faults(
    *, optim: str, lr_scheduler_type: str, report_to: str, device: str
) -> dict[str, UsageError]:
    """{setting: the error of training with it}, empty if all are available.

    device: "cuda" or "cpu".
    """
    import_bitsandbytes()  # before transformers does
    from transformers import SchedulerType
    from transformers.integrations import integration_utils
    from transformers.training_args import OptimizerNames

    trackers = ["none", "all", *integration_utils.INTEGRATION_TO_CALLBACK]
    attempts: list[tuple[str, str, Iterable[str], Callable[[], object]]] = [
        ("optim", optim, [n.value for n in OptimizerNames], lambda: _optimizer(optim, device)),
        (
            "lr_scheduler_type",
            lr_scheduler_type,
            [name.value for name in SchedulerType],
            lambda: _schedule(lr_scheduler_type),
        ),
        ("report_to", report_to, trackers, lambda: _tracker(report_to)),
    ]
    faults: dict[str, UsageError] = {}
    for setting, value, choices, attempt in attempts:
        key = f"training.{setting}"
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1, 0.0)[0]
            faults[key] = UsageError(
                f"{key} is {value!r}, which transformers does not know",
                setting=key,
                seen=value,
                remedy=f"did you mean {near!r}? ({', '.join(choices)})",
            )
            continue
        try:
            attempt()
        except (ImportError, RuntimeError, ValueError, TypeError) as error:
            remedy = "it needs an argument that no setting passes on: choose another"
            if isinstance(error, ImportError | RuntimeError):
                remedy = "install the missing package, or choose another"
            reason = first_line(error).rstrip(".")
            problem = f"{key}={value} is unavailable here: {reason}"
            faults[key] = UsageError(problem, setting=key, seen=value, remedy=remedy)
    return faults


def _optimizer(name: str, device: str) -> object:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir="unused", optim=name, use_cpu=device == "cpu", report_to="none"
    )
    return Trainer.get_optimizer_cls_and_kwargs(arguments)


def _schedule(name: str) -> object:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=2)


def _tracker(name: str) -> None:
    from transformers.integrations import integration_utils

    available = {"none", "all", *integration_utils.get_available_reporting_integrations()}
    if name in {"flyte", "azure_ml"}:  # missing from that list, or listed only sometimes
        integration_utils.INTEGRATION_TO_CALLBACK[name]()
    elif name not in available:
        raise ImportError(f"its package {name} is not installed")
