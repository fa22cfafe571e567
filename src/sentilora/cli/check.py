"""`sentilora check`."""

import sys
from typing import Annotated

import typer

from sentilora.cli.options import (
    ConfigFile,
    DataAndOverrides,
    LabelColumn,
    Labels,
    OutputDir,
    Preset,
    TextColumn,
    config_from,
    fail,
    in_options,
    named_values,
    quiet,
)
from sentilora.wording import counted

ListPresets = Annotated[
    bool, typer.Option("--list", help="List the presets with their bases, and check nothing.")
]


def check(
    arguments: DataAndOverrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    labels: Labels = None,
    list: ListPresets = False,
) -> None:
    """Check data, labels, lengths, memory and time before training."""
    if list:
        from sentilora.stages.preset_list import as_table

        print(as_table())
        return
    from sentilora.stages.check import check as run

    values = named_values(output_dir, text_column, label_column, labels)
    settings = config_from(preset, config, arguments, values)
    quiet()
    findings = run(settings)
    for finding in findings:
        mark = {"ok": " ", "note": "!", "problem": "✗"}[finding.level]
        # What is fine quotes data, which may hold backticks; only messages name keywords.
        text = finding.text if finding.level == "ok" else in_options(finding.text)
        indented = text.replace("\n", "\n" + " " * 22)
        print(f"{mark} {finding.name:<19} {indented}")
    codes = [finding.exit_code for finding in findings if finding.level == "problem"]
    if codes:  # the first is what `train` would end with
        sys.stdout.flush()
        fail(f"{counted(len(codes), 'problem')}, marked ✗ above", codes[0])
