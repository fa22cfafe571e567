"""Hand a teacher's knowledge to a smaller base: its probabilities of texts are the labels.

sentilora distill --teacher support --texts tickets.csv --base embedded

texts → the teacher's probabilities, unit by unit → temperature and weight → the student → figures
beside the teacher, and beside the recipe on true labels alone.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data.rows import Rows
from sentilora.data.sources import load_rows
from sentilora.errors import Interrupted, SentiloraError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.card import add_section
from sentilora.folders.checkpoints import checkpoints
from sentilora.folders.claim import claim
from sentilora.folders.run_folder import (
    Choices,
    TrainingResult,
    require_same_settings,
    require_unused,
    require_writable,
)
from sentilora.metrics import mcnemar_p, measure_fully
from sentilora.models.device import free_memory
from sentilora.progress import Progress, say
from sentilora.scoring.classifier import Classifier
from sentilora.shipped import adapter_name
from sentilora.stages.adapter_rows import overlap_warning
from sentilora.stages.distill_mixture import choose, on_rows
from sentilora.stages.distill_rows import (
    Parts,
    fault_of_number,
    read_scored,
    split,
    true_rows,
    write_parts,
    write_rows,
)
from sentilora.stages.distill_settings import (
    in_tokens_of_base,
    require_possible,
    show_decided,
    student_of,
    with_text_column,
)
from sentilora.stages.from_config import columns_of, with_absolute_base
from sentilora.stages.predict_file import predict_file
from sentilora.stages.train import train_in
from sentilora.training.distillation import (
    UNKNOWN,
    Contender,
    Distillation,
    Mixture,
    targets_of,
)
from sentilora.training.faults import training_errors
from sentilora.wording import counted, quoted

PARTS_FOLDER = "distillation"  # in the student's: units, rows, the recipe alone
NUM_TIMED, NUM_WARM = 256, 16  # test rows that are timed, and those before the clock starts


def distill(
    config: Config, *, teacher: str | Path, texts: str | Path, resume: bool = False
) -> Distillation:
    """Train `config.base` on a teacher's probabilities of texts; returns how it does beside it.

    The student in `config.output_dir` is a run as `train` leaves one, with the teacher's prompt and
    labels. teacher: its adapter's folder. texts: a file of texts, or a folder with training rows;
    rows whose `data.label_column` has one of the teacher's labels have a true label. If there are
    enough of these, evaluation and test rows are held out of them; `data.test` names other test
    rows. resume: continue where a distillation with the same arguments stopped.

    Raises `DataError`, `UsageError`, `Interrupted` or `SentiloraError`; see `errors`.
    """
    adapter = AdapterFolder.open(teacher)
    has_own_answer = "prompt.answer" in config.chosen
    config = student_of(adapter, with_absolute_base(config))
    require_possible(config, texts)
    config = in_tokens_of_base(with_text_column(config, texts), has_own_answer)
    folder = Path(config.output_dir)
    if resume:
        require_begun(folder)
    else:
        require_writable(folder)
        require_not_begun(folder)
    with training_errors(folder):
        own_claim = claim(folder)
    with own_claim:
        if not resume:
            require_unused(folder)
        return distill_in(folder, config, adapter, texts)


def distill_in(
    folder: Path, config: Config, adapter: AdapterFolder, texts: str | Path
) -> Distillation:
    """Distill in a folder that this job holds; what is done there already is kept."""
    place, labels = folder / PARTS_FOLDER, config.prompt.labels
    require_same_student(folder, config)
    columns = columns_of(config, labels)
    own_test = None
    if "data.test" in config.chosen:
        own_test = load_rows(config.data.test, "test", columns)
    say("1 of 4: the teacher scores the texts")
    units = place / "teacher"
    with of_texts(units):
        predict_file(
            texts,
            f"{units}/",
            text_column=columns.text,
            adapter=adapter.path,
            format="parquet",
            split="train",
            device=config.base.device,
        )
    free_memory()
    scored = read_scored(units, config.with_values({"data.train": str(texts)}), labels)
    if too_few := fault_of_number(scored):
        shutil.rmtree(place)  # a moment's work, and with it the folder would take no other texts
        raise too_few
    parts = split(scored, labels, config.data.shuffle_seed, own_test)
    with training_errors(folder):
        config.save(place / CONFIG_FILE)
    on_texts = on_rows(config, place / "rows", own_test is not None)
    show_decided(config, on_texts)
    config = on_texts
    say("2 of 4: temperature and weight of the teacher's probabilities")
    mixture = choose(config, place, parts, adapter)
    say("3 of 4: the student")
    train = parts.train
    targets = targets_of(train.probabilities, train.truth, mixture.temperature, mixture.weight)
    write_parts(place / "rows", parts, targets, columns)
    train_once(config)
    record_choices(folder, mixture)
    alone = train_alone(config, place, parts)
    say("4 of 4: figures")
    if own_test is None and parts.test is not None:
        own_test = true_rows(parts.test, labels, parts.are_true)
    test = own_test or scored.rows
    are_own = parts.test is not None and not parts.are_true  # its answers to itself
    if not are_own and (warning := overlap_warning(adapter, test, labels)):
        say(f"warning, about the teacher: {warning}")
    result = figures(config, adapter, alone, test, parts, mixture)
    add_section(folder, result.for_card())
    result.save(folder)  # last: with it the distillation is finished
    return result


def record_choices(folder: Path, mixture: Mixture) -> None:
    """Add temperature and weight to the automatic choices of the student's run."""
    chosen = Choices.of(folder)
    settings = {
        "distillation.temperature": f"{mixture.temperature:g}: {mixture.reasons['temperature']}",
        "distillation.weight": f"{mixture.weight:g}: {mixture.reasons['weight']}",
    }
    chosen.model_copy(update={"settings": chosen.settings | settings}).save(folder)


# --- before --------------------------------------------------------------------------------------


@contextmanager
def of_texts(units: Path) -> Iterator[None]:
    """Words the errors of bulk scoring for who gave `texts` and `output_dir`.

    units: folder of what is scored.
    """
    try:
        yield
    except SentiloraError as error:
        error.problem = error.problem.replace("`output`", "the teacher's answer")
        error.remedy = error.remedy.replace("`output`", "`output_dir`").replace(
            "`input`", "`texts`"
        )
        if isinstance(error, Interrupted) and units.is_dir():  # the same command is refused then
            error.remedy = "continue with `resume` and the same `output_dir`"
        raise


def require_begun(folder: Path) -> None:
    """Raise `UsageError` unless a folder holds a distillation that is not finished."""
    if not (folder / PARTS_FOLDER).is_dir() or (folder / Distillation.FILE).is_file():
        is_over = (folder / Distillation.FILE).is_file()
        raise UsageError(
            f"{quoted(folder)} holds {'a finished' if is_over else 'no'} distillation",
            setting="output_dir",
            seen=str(folder),
            remedy="name another `output_dir`, without `resume`",
        )


def require_not_begun(folder: Path) -> None:
    """Raise `UsageError` if a folder holds a distillation that is not finished."""
    if (folder / PARTS_FOLDER).is_dir() and not (folder / Distillation.FILE).is_file():
        raise UsageError(
            f"{quoted(folder)} holds a distillation that is not finished",
            setting="output_dir",
            seen=str(folder),
            remedy="go on with `resume`, choose another `output_dir`, or remove it",
        )


def require_same_student(folder: Path, config: Config) -> None:
    """Raise `UsageError` if a folder already holds work on a student with other settings.

    What the teacher has scored does not count.
    """
    recipe = folder / PARTS_FOLDER / CONFIG_FILE
    if recipe.is_file():
        require_same_settings(folder, read_config(recipe).flat(), config.flat())


# --- training ------------------------------------------------------------------------------------


def train_once(config: Config) -> TrainingResult:
    """The result of a run: as it is on disk, resumed from its last checkpoint, or begun."""
    folder = Path(config.output_dir)
    if (folder / TrainingResult.FILE).is_file():
        return TrainingResult.load(folder)
    result = train_in(folder, config, {}, None, resume=bool(checkpoints(folder)))
    free_memory()
    return result


def train_alone(config: Config, place: Path, parts: Parts) -> Path | None:
    """Folder of the same student trained on true labels only; None if they are too few."""
    labels = config.prompt.labels
    places = np.flatnonzero(parts.train.truth != UNKNOWN)
    if not parts.are_true or len(set(parts.train.truth[places].tolist())) < 2:
        return None
    columns, rows = columns_of(config, labels), place / "labeled"
    labeled = true_rows(parts.train.take(places.tolist()), labels, are_true=True)
    write_rows(rows, "train", labeled, columns, None)
    write_rows(rows, "validation", true_rows(parts.evaluation, labels, True), columns, None)
    say(f"the recipe alone, on {counted(len(labeled), 'text')} with a true label")
    sources = {"data.train": str(rows.resolve()), "data.evaluation": str(rows.resolve())}
    folder = place / "alone"
    train_once(
        config.with_values({**sources, "output_dir": str(folder), "data.soft_labels": False})
    )
    return folder


# --- figures -------------------------------------------------------------------------------------


def figures(
    config: Config,
    adapter: AdapterFolder,
    alone: Path | None,
    test: Rows,
    parts: Parts,
    mixture: Mixture,
) -> Distillation:
    """Student, teacher and recipe alone on the test rows."""
    places = {"student": Path(config.output_dir), "teacher": adapter.path, "alone": alone}
    truth = np.array([config.prompt.labels.index(label) for label in test.labels])
    answers: dict[str, np.ndarray] = {}
    contenders: dict[str, Contender] = {}
    for name, place in places.items():
        if place is None:
            continue
        contenders[name], answers[name] = contender(place, name, test, truth, config.base.device)
        if name != "student":
            right = [(answers[x] == truth).tolist() for x in ("student", name)]
            contenders[name] = replace(contenders[name], p=mcnemar_p(*right))
        free_memory()
    return Distillation(
        output_dir=config.output_dir,
        texts=parts.train.rows.source,
        teacher_name=adapter_name(adapter.path),
        teacher_sha256=adapter.weights_digest(),
        temperature=mixture.temperature,
        weight=mixture.weight,
        num_texts=len(parts.train.truth),
        num_labeled=parts.train.num_labeled,
        num_test=len(test),
        are_true=parts.are_true or parts.test is None,
        agreement=float((answers["student"] == answers["teacher"]).mean()),
        student=contenders["student"],
        teacher=contenders["teacher"],
        alone=contenders.get("alone"),
        chosen=mixture.reasons,
    )


def contender(
    place: Path, name: str, test: Rows, truth: np.ndarray, device: str
) -> tuple[Contender, np.ndarray]:
    """An adapter on the test rows, and its answers by their numbers."""
    classifier = Classifier.load(place, device=device)
    timed = test.inputs[:NUM_TIMED]
    classifier.predict_proba(timed[:NUM_WARM])
    started = time.perf_counter()
    classifier.predict_proba(timed)
    speed = len(timed) / (time.perf_counter() - started)
    shown = {"alone": "recipe alone"}.get(name, name)
    with Progress(f"scoring with the {shown}", len(test)) as progress:
        predictions = classifier.classify(test.inputs, progress.advance)
    probabilities = np.array([list(p.probabilities.values()) for p in predictions])
    weights = sum(w.numel() * w.element_size() for w in classifier.model.parameters())
    figures = Contender.of(measure_fully(probabilities, truth), speed, weights)
    return figures, probabilities.argmax(1)
