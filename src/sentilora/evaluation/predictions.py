"""`predictions.parquet`: every test row with the answers and probabilities of every model.

write_predictions(Path("report/predictions.parquet"), result, scores, rows, twins)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentilora.data.label_order import values_of
from sentilora.data.rows import Rows
from sentilora.evaluation.findings import Evaluation, RowScores, temperature_of
from sentilora.evaluation.leakage import Twin
from sentilora.scoring.answers import expected_values, with_temperature

ROWS_AT_ONCE = 50_000


def write_predictions(
    path: Path, result: Evaluation, scores: RowScores, rows: Rows, twins: Mapping[int, Twin]
) -> None:
    """Write every row: its number, text and label, and each model's answer and probabilities.

    When a temperature helps, there are the adapter's probabilities at that temperature too, and
    when a threshold reaches its target, whether `predict` would abstain. twins: by row number.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, len(rows)))
        numbers = rows.numbers[part]
        columns: dict[str, Any] = {
            "row": np.array(numbers),
            "text": rows.texts[part],
            "label": rows.labels[part],
            **_answers(result, scores, part),
            **_calibrated_answers(result, scores, part),
            "truncated": scores.truncated[part],
            **_twins(numbers, twins),
            **_suggested_labels(result, numbers),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _answers(result: Evaluation, scores: RowScores, part: slice) -> dict[str, Any]:
    """Each model's label and probabilities; a base alone has no prefix.

    Labels in an order have an expected value too, of the model under evaluation.
    """
    models = {"": scores.adapter, "base_": scores.base, "tfidf_": scores.baseline}
    if scores.adapter is None:
        models = {"": scores.base}
    columns: dict[str, Any] = {}
    for prefix, probabilities in models.items():
        if probabilities is None:
            continue
        answers = probabilities[part].argmax(-1)
        columns[f"{prefix}prediction"] = [result.labels[i] for i in answers]
        for number, label in enumerate(result.labels):
            columns[f"{prefix}probability_{label}"] = probabilities[part, number]
    if result.ordered:
        columns["expected_value"] = expected_values(scores.best[part], values_of(result.labels))
    return columns


def _calibrated_answers(result: Evaluation, scores: RowScores, part: slice) -> dict[str, Any]:
    """The adapter's probabilities at the temperature, and whether `predict` abstains."""
    if scores.adapter is None:
        return {}
    columns: dict[str, Any] = {}
    probabilities, temperature = scores.adapter[part], temperature_of(result)
    if temperature is not None:
        probabilities = with_temperature(probabilities, temperature)
        for number, label in enumerate(result.labels):
            columns[f"calibrated_probability_{label}"] = probabilities[:, number]
    if result.abstention is not None and result.abstention.is_reached:
        columns["abstained"] = probabilities.max(-1) < result.abstention.threshold.confidence
    return columns


def _twins(numbers: Sequence[int], twins: Mapping[int, Twin]) -> dict[str, Any]:
    import pyarrow as pa

    matches = [twins.get(number) for number in numbers]
    return {
        "twin_split": pa.array([twin and twin.split for twin in matches], pa.string()),
        "twin_row": pa.array([twin and twin.other for twin in matches], pa.int64()),
        "twin_similarity": pa.array([twin and twin.similarity for twin in matches], pa.float64()),
    }


def _suggested_labels(result: Evaluation, numbers: Sequence[int]) -> dict[str, Any]:
    import pyarrow as pa

    if result.label_issues is None:
        return {}
    suggested = {issue.number: issue.suggested for issue in result.label_issues.issues}
    labels = [suggested.get(number) for number in numbers]
    return {"suggested_label": pa.array(labels, pa.string())}
