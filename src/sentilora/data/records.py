"""Records of a question and its answer, as the trainers of decision models read them, as a table.

    {"state": "A lovely film.", "questions": {"sentiment": {"type": "choice",
     "instructions": "Which sentiment?", "criteria": {"positive": null, "negative": null}}},
     "expected": {"sentiment": "positive"}, "targets": {"sentiment": {"positive": 0.9, …}}}

All records of a file ask the same question. The state is the text, or an object of the columns that
a prompt shows. The answer is one label (a hard one) or the probability of each (a soft one), under
any key of `ANSWERS`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from sentilora.data.json_tables import json_column
from sentilora.data.rows import Rows, row_place
from sentilora.data.soft_labels import PREFIX, TOLERANCE
from sentilora.data.tables import python_values
from sentilora.errors import DataError
from sentilora.wording import listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

STATE, QUESTIONS = "state", "questions"
ANSWERS = ("targets", "gold", "expected", "answers")  # a soft answer of the first that has one
SoftKey = Literal["targets", "gold"]
TEXT, LABEL = "text", "label"  # the columns of the table
_METADATA = b"sentilora.question"


@dataclass(frozen=True)
class Question:
    """What all records of a file ask: its name, its instructions, and the labels to choose from.

    instructions: with a line for each label that is described, as the server shows descriptions to
    a base. Empty if the records have none.
    """

    name: str
    instructions: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, questions: Any, place: str) -> Self:
        """The question of a record. Raises `DataError` for what is no single choice.

        place: what messages call the record.
        """
        if not isinstance(questions, Mapping) or len(questions) != 1:
            number = len(questions) if isinstance(questions, Mapping) else "no object of"
            raise _fault(
                f"{place}: {number} questions, and exactly one is expected",
                questions,
                "write a file for each question",
            )
        name, question = next(iter(questions.items()))
        if not isinstance(question, Mapping) or question.get("type") != "choice":
            kind = question.get("type") if isinstance(question, Mapping) else question
            raise _fault(
                f"{place}: question {name!r} is of type {kind!r:.40}",
                kind,
                'write it as a "choice", with its labels in "criteria"',
            )
        criteria = question.get("criteria")
        if isinstance(criteria, Sequence) and not isinstance(criteria, str):
            criteria = dict.fromkeys(map(str, criteria))
        if not isinstance(criteria, Mapping) or len(criteria) < 2:
            raise _fault(
                f"{place}: the criteria of question {name!r} are {criteria!r:.40}",
                criteria,
                "write two labels or more, {label: description or null}",
            )
        instructions = question.get("instructions")
        described = [f"- {label}: {_text(about)}" for label, about in criteria.items() if about]
        lines = [_text(instructions).strip() if instructions else "", *described]
        return cls(str(name), "\n".join(filter(None, lines)), tuple(criteria))


def are_records(table: "pa.Table") -> bool:
    """Whether the rows of a table are records: a state, and questions that have a type."""
    if not {STATE, QUESTIONS} <= set(table.column_names) or not len(table):
        return False
    first = _parsed(python_values(table[QUESTIONS].slice(0, 1))[0])
    return isinstance(first, Mapping) and any(
        isinstance(question, Mapping) and "type" in question for question in first.values()
    )


def question_of(table: "pa.Table") -> Question | None:
    """The question of the records that a table was made of; None for any other table."""
    stored = (table.schema.metadata or {}).get(_METADATA)
    if stored is None:
        return None
    content = json.loads(stored)
    return Question(content["name"], content["instructions"], tuple(content["labels"]))


def table_of_records(source: str, table: "pa.Table") -> "pa.Table":
    """Records as a table: columns of the state, of hard labels, and of probabilities.

    It has a column of labels if every record has a hard answer that says more than its soft one,
    and columns of probabilities if any record has a soft answer.

    Raises `DataError` for the first record that cannot be used, or asks another question.
    """
    import pyarrow as pa

    names = [name for name in (STATE, QUESTIONS, *ANSWERS) if name in table.column_names]
    values = zip(*(python_values(table[name]) for name in names), strict=True)
    first: Question | None = None
    states, answers = [], []
    for row, cells in enumerate(values):
        place = f"{quoted(source)}, {row_place(row)}"
        record = {name: _parsed(cell) for name, cell in zip(names, cells, strict=True)}
        question = Question.of(record[QUESTIONS], place)
        first = first or question
        if question != first:
            raise _fault(
                f"{place}: its question is not that of the first record",
                record[QUESTIONS],
                "write a file for each question",
            )
        answers.append(_Answer.of(record, question, place))
        states.append(_state(record[STATE]))
    question = first or Question("", "", ())
    keys = dict.fromkeys(key for state in states for key in state)
    columns = {key: json_or_text([state.get(key) for state in states]) for key in keys}
    columns |= _answer_columns(answers, question.labels)
    metadata = {_METADATA: json.dumps(asdict(question)).encode()}
    return pa.table(columns).replace_schema_metadata(metadata)


@dataclass(frozen=True)
class _Answer:
    """The answer of a record: a label, the probability of each, or both."""

    hard: str | None
    soft: tuple[Any, ...] | None

    @classmethod
    def of(cls, record: Mapping[str, Any], question: Question, place: str) -> Self:
        hard: dict[str, None] = {}
        soft: list[tuple[Any, ...]] = []
        for key in ANSWERS:
            answers = record.get(key)
            answer = answers.get(question.name) if isinstance(answers, Mapping) else None
            if answer is None:
                continue
            if isinstance(answer, Mapping):
                answer = answer.get("probabilities", answer)
            if isinstance(answer, Mapping | list):
                soft.append(_shares(answer, question.labels, f"{place}: {key}"))
            else:
                _require_label(str(answer), question.labels, f"{place}: {key}")
                hard[str(answer)] = None
        if not (hard or soft) or len(hard) > 1:
            problem = f"two answers, {listed(hard)}" if hard else "no answer"
            raise _fault(
                f"{place} has {problem} to question {question.name!r}",
                list(hard),
                f"give one in {listed(ANSWERS[1:])}",
            )
        return cls(next(iter(hard), None), soft[0] if soft else None)

    def says_more(self, labels: Sequence[str]) -> bool:
        """Whether the hard answer is another label than a sound soft one's likeliest."""
        if self.hard is None or self.soft is None:
            return False
        try:
            is_sound = min(self.soft) >= 0 and abs(sum(self.soft) - 1) <= TOLERANCE
            return bool(is_sound and self.soft[labels.index(self.hard)] < max(self.soft))
        except TypeError:  # no numbers, which `soft_labels` refuses by their rows, as other faults
            return False


def _shares(answer: Any, labels: Sequence[str], place: str) -> tuple[Any, ...]:
    """A soft answer in the order of the labels; one that it does not name has none."""
    if isinstance(answer, list):
        if len(answer) != len(labels):
            raise _fault(
                f"{place} has {len(answer)} probabilities for {len(labels)} labels",
                answer,
                "give one for each label of the criteria",
            )
        return tuple(answer)
    for label in answer:
        _require_label(str(label), labels, place)
    return tuple(answer.get(label, 0.0) for label in labels)


def _require_label(label: str, labels: Sequence[str], place: str) -> None:
    if label not in labels:
        raise _fault(
            f"{place} is {label!r:.60}, which is not one of the criteria ({listed(labels)})",
            label,
            "correct it, or add it to the criteria of every record",
        )


def _answer_columns(answers: "Sequence[_Answer]", labels: Sequence[str]) -> "dict[str, pa.Array]":
    """The columns of labels and of probabilities: see `table_of_records`."""
    import pyarrow as pa

    columns = {}
    is_soft = any(answer.soft is not None for answer in answers)
    says_more = not is_soft or any(answer.says_more(labels) for answer in answers)
    if says_more and all(answer.hard is not None for answer in answers):
        columns[LABEL] = pa.array([answer.hard for answer in answers], pa.string())
    if is_soft:
        for place, label in enumerate(labels):
            columns[PREFIX + label] = json_column(
                [
                    float(answer.hard == label) if answer.soft is None else answer.soft[place]
                    for answer in answers
                ]
            )
    return columns


def _state(state: Any) -> Mapping[str, Any]:
    """The columns of a state: an object's keys, or the text."""
    return state if isinstance(state, Mapping) else {TEXT: state}


def json_or_text(values: Sequence[Any]) -> "pa.Array":
    """Values as a column: of texts if all are, otherwise of JSON."""
    import pyarrow as pa

    if all(value is None or isinstance(value, str) for value in values):
        return pa.array(values, pa.string())
    return json_column(values)


def _parsed(value: Any) -> Any:
    """The value of a cell: published data sets often hold objects as JSON text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fault(problem: str, seen: Any, remedy: str) -> DataError:
    return DataError(problem, setting="data.train", seen=seen, remedy=remedy)


# --- writing -------------------------------------------------------------------------------------


def records_of(rows: Rows, question: Question, soft_key: SoftKey) -> "pa.Table":
    """Labeled rows as records, ready to be written.

    soft_key: under which soft answers go. "targets" goes with the likeliest label as the expected
    one, for trainers that read hard answers only; "gold" stands alone.
    """
    import pyarrow as pa

    questions = {
        question.name: {
            "type": "choice",
            "instructions": question.instructions,
            "criteria": dict.fromkeys(question.labels),
        }
    }
    states = [item if isinstance(item, str) else dict(item) for item in rows.inputs]
    columns = {
        STATE: json_or_text(states),
        QUESTIONS: json_column([questions] * len(rows)),
    }
    if not rows.shares or soft_key == "targets":
        columns["expected"] = json_column([{question.name: label} for label in rows.labels])
    if rows.shares:
        columns[soft_key] = json_column(
            [
                {question.name: dict(zip(question.labels, shares, strict=True))}
                for shares in rows.shares
            ]
        )
    return pa.table(columns)
