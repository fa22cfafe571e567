"""`sentilora check`."""

import sys

from sentilora.cli.options import (
    ConfigFile,
    LabelColumn,
    OutputDir,
    Overrides,
    Preset,
    TextColumn,
    config_from,
    fail,
    named_values,
    quiet,
)
from sentilora.wording import counted


def check(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Look at data, labels, memory and time before training."""
    from sentilora.stages.check import check as run

    values = named_values(output_dir, text_column, label_column)
    settings = config_from(preset, config, overrides, values)
    quiet()
    findings = run(settings)
    for finding in findings:
        mark = {"ok": " ", "note": "!", "problem": "✗"}[finding.level]
        indented = finding.text.replace("\n", "\n" + " " * 22)
        print(f"{mark} {finding.name:<20}{indented}")
    codes = [finding.exit_code for finding in findings if finding.level == "problem"]
    if codes:  # it ends as `train` would, with the first
        sys.stdout.flush()
        fail(f"{counted(len(codes), 'problem')}, marked ✗ above", codes[0])
