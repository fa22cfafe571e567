"""Explanations: words and where they stand, occlusion on oracles, deletion test, what is shown."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.cli.app import app
from sentilora.cli.predict import as_words
from sentilora.data.text import blank_line_breaks, clean_text, fault_of
from sentilora.errors import DataError
from sentilora.prompt import ELLIPSIS, Prompter, PromptFormat
from sentilora.scoring.explain import (
    NUM_VARIANTS,
    Explanation,
    Word,
    deletion_test,
    explain,
    words_of,
)

WEIGHTS = {"lovely": 2.0, "dull": -3.0, "fine": 0.5, "never": -0.25}


class Oracle:
    """Scores two labels so that the log-odds of the first are the sum of its words' weights."""

    def __init__(self, prompter, weights, start=0.125):
        self.prompter, self.weights, self.start = prompter, weights, start
        self.calls = []

    def texts(self, prompts):
        before, after = self.prompter.format.around_text
        decode = self.prompter.tokenizer.decode
        for ids in prompts:
            string = decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert string.startswith(before) and string.endswith(after)
            yield string[len(before) : len(string) - len(after)]

    def log_probs(self, prompts):
        self.calls.append(len(prompts))
        sums = [
            self.start + sum(self.weights.get(word, 0.0) for word in text.split())
            for text in self.texts(prompts)
        ]
        return np.stack([np.zeros(len(sums)), -np.array(sums)], 1)


@pytest.fixture(scope="module")
def prompter(toy_tokenizer):
    return Prompter(toy_tokenizer, PromptFormat())


def words_in(text):
    return [text[start:end] for start, end in words_of(text)]


# --- words ---------------------------------------------------------------------------------------

TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \t\r\n<br/>aé漢字かなไทยที่😀\u200d👩"),
    ),
    max_size=60,
)


@given(TEXTS)
def test_words_ascend_and_leave_out_white_space_only(text):
    spans = list(words_of(text))
    assert all(start < end for start, end in spans)
    assert all(first[1] <= second[0] for first, second in pairwise([(0, 0), *spans]))
    between = [0, *(edge for span in spans for edge in span), len(text)]
    assert not "".join(text[a:b] for a, b in zip(between[::2], between[1::2], strict=True)).strip()
    assert not any(character.isspace() for word in words_in(text) for character in word)


@given(TEXTS)
def test_cleaning_a_text_leaves_its_words_as_they_are(text):
    blank = blank_line_breaks(text)
    assert len(blank) == len(text)
    found = [text[start:end] for start, end in words_of(blank)]
    assert found == words_in(clean_text(text))


def test_words_of_scripts_with_and_without_spaces():
    assert words_in("It's  well-made,\n\nno? 👩‍👩‍👧 ok") == [
        "It's",
        "well-made,",
        "no?",
        "👩‍👩‍👧",
        "ok",
    ]
    assert words_in("很好看的电影!") == ["很好", "看的", "电影", "!"]
    assert words_in("ดีที่สุด") == ["ดีที่", "สุด"]  # marks stay with their letter
    assert words_in("아주 좋은 영화") == ["아주", "좋은", "영화"]
    assert words_in("") == words_in(" \n") == []


# --- occlusion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, 0, 1])
def test_contributions_are_the_oracles_weights(prompter, label):
    text = "  A lovely<br />film 😀, fine\r\nand never   dull lovely "
    oracle = Oracle(prompter, WEIGHTS)
    found = explain(oracle, prompter, text, label=label)
    total, sign = 0.125 + 2 + 0.5 - 0.25 - 3 + 2, -1 if label == 1 else 1
    assert found.label == ("negative" if label == 1 else "positive")
    assert found.probability == pytest.approx(1 / (1 + np.exp(-sign * total)))
    said = [(text[word.start : word.end], word.contribution) for word in found.words]
    expected = ["A", "lovely", "film", "😀,", "fine", "and", "never", "dull", "lovely"]
    assert [word for word, _ in said] == expected
    for word, contribution in said:
        assert contribution == pytest.approx(sign * WEIGHTS.get(word, 0.0))
    assert all(word.alone for word in found.words)
    assert oracle.calls == [10]  # one call: the text and each word


def test_a_temperature_divides_what_words_contribute(prompter):
    cold = explain(Oracle(prompter, WEIGHTS), prompter, "lovely film", temperature=4.0)
    assert cold.words[0].contribution == pytest.approx(0.5)
    assert cold.probability == pytest.approx(1 / (1 + np.exp(-2.125 / 4)))


def test_of_several_labels_the_others_are_summed(toy_tokenizer):
    prompter = Prompter(toy_tokenizer, PromptFormat(labels=("good", "bad", "mixed")))

    class OfThree(Oracle):
        def log_probs(self, prompts):
            return [[1.0, 0.5, 2.0 * ("but" in text)] for text in self.texts(prompts)]

    found = explain(OfThree(prompter, {}), prompter, "fine but long")
    others = np.log(np.exp(1.0) + np.exp(0.5))
    assert found.label == "mixed" and found.words[1].contribution == pytest.approx(2.0)
    assert found.probability == pytest.approx(np.exp(2) / np.exp([1.0, 0.5, 2.0]).sum())
    assert found.probability == pytest.approx(1 / (1 + np.exp(others - 2)))
    assert [word.contribution for word in found.words[::2]] == [0, 0]


def test_a_long_text_keeps_the_budget_and_finds_the_words(prompter):
    for num_words in (NUM_VARIANTS - 1, NUM_VARIANTS, 100, 101, 170):
        words = ["a"] * num_words
        words[7], words[num_words - 9] = "lovely", "dull"
        oracle = Oracle(prompter, WEIGHTS)
        found = explain(oracle, prompter, " ".join(words), label=0)
        assert len(found.words) == num_words and None not in [w.contribution for w in found.words]
        assert found.words[7][2:] == (pytest.approx(2.0), True)
        assert found.words[num_words - 9][2:] == (pytest.approx(-3.0), True)
        assert sum(oracle.calls) <= NUM_VARIANTS
        assert len(oracle.calls) == (1 if num_words < NUM_VARIANTS else 2)
        others = [w for at, w in enumerate(found.words) if at not in (7, num_words - 9)]
        assert all(word.contribution == pytest.approx(0) for word in others)
    assert not all(word.alone for word in found.words)


def test_words_that_are_not_asked_about_alone_share_their_stretch(prompter):
    text = " ".join(["dull"] * 4 + ["lovely"] + ["a"] * 3 + ["fine"] * 4)
    found = explain(Oracle(prompter, WEIGHTS), prompter, text, label=0, num_variants=9)
    # Three stretches of four words; five questions are left: one stretch.
    assert [word.alone for word in found.words] == [True] * 4 + [False] * 8
    assert [word.contribution for word in found.words] == pytest.approx([-3] * 4 + [0.5] * 8)


@pytest.mark.parametrize("text", ["lovely", " lovely\n", "<br>lovely", "。"])
def test_a_text_of_one_word(prompter, text):
    oracle = Oracle(prompter, WEIGHTS)
    found = explain(oracle, prompter, text)
    assert len(found.words) == 1 and oracle.calls == [2]
    assert found.words[0].contribution == pytest.approx(2.0 if "lovely" in text else 0.0)
    assert deletion_test(oracle, prompter, [text], [found]) is None


@pytest.mark.parametrize("text", ["", " \n", "<br />"])
def test_a_text_without_a_word_is_refused_as_everywhere(prompter, text):
    assert fault_of(text)
    with pytest.raises(DataError, match="empty"):
        explain(Oracle(prompter, WEIGHTS), prompter, text)


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_words_that_were_cut_are_not_seen(toy_tokenizer, truncation):
    prompter = Prompter(toy_tokenizer, PromptFormat(max_length=120, truncation=truncation))
    text = " ".join(["lovely"] + [f"word{i}" for i in range(150)] + ["dull"])
    prompt = prompter.encode(text)
    assert prompt.truncated
    parts = [text[start:end] for start, end in prompt.spans]
    assert prompter.encode_parts(parts) == prompt.input_ids
    oracle = Oracle(prompter, WEIGHTS)
    found = explain(oracle, prompter, text)
    seen = [word for word in found.words if word.contribution is not None]
    (shown,) = oracle.texts([prompt.input_ids])
    # A word that was cut in the middle was seen.
    assert len(seen) == len(shown.replace(ELLIPSIS, " ").split())
    assert (found.words[0].contribution is not None) == (truncation != "tail")
    assert (found.words[-1].contribution is not None) == (truncation != "head")
    if truncation != "head":
        assert found.words[-1].contribution == pytest.approx(3 if found.label == "negative" else -3)
    assert f"not seen: {len(found.words) - len(seen)} of 152 words" in as_words(text, found)


def test_a_text_of_which_nothing_fits(toy_tokenizer):
    overhead = len(Prompter(toy_tokenizer, PromptFormat()).encode_parts([]))
    longest = max(map(len, Prompter(toy_tokenizer, PromptFormat()).label_ids))
    format = PromptFormat(max_length=overhead + longest + 1)
    prompter = Prompter(toy_tokenizer, format)
    text = "𓀀𓀁𓀂𓀃" * 30  # several tokens a character
    found = explain(Oracle(prompter, WEIGHTS), prompter, text)
    assert len(found.words) == 1
    assert deletion_test(Oracle(prompter, WEIGHTS), prompter, [text], [found]) is None


def test_parts_of_a_text_are_encoded_as_the_text_is(prompter):
    for text in ("A film.", " <br />Two\r\nlines ", "word " * 900):
        clean, prompt = clean_text(text), prompter.encode(text)
        assert prompter.encode_parts([clean[a:b] for a, b in prompt.spans]) == prompt.input_ids


# --- deletion test -------------------------------------------------------------------------------


def sample_texts():
    random = np.random.default_rng(0)
    texts = []
    for _ in range(12):
        words = random.choice(["film", "plot", "a", "the"], 20).tolist()
        for at in random.choice(20, 2, replace=False):
            words[at] = "lovely"
        texts.append(" ".join(words))
    return texts


def test_the_heaviest_words_of_the_oracle_move_it_more_than_random_ones(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    found = deletion_test(oracle, prompter, texts, explanations)
    sigmoid = [1 / (1 + np.exp(-x)) for x in (4.125, 0.125)]
    assert found.top == pytest.approx(sigmoid[0] - sigmoid[1])  # both words of each text
    assert 0 <= found.random < found.top / 2 and found.interval[0] > 0 and found.num_texts == 12
    assert found.sentence.startswith("deletion test on 12 texts: the 10 % of words that weigh most")
    assert found.sentence.endswith("the explanations point at what the model uses")
    assert deletion_test(oracle, prompter, texts, explanations) == found  # the same draws


def test_a_model_that_does_not_read_is_told_of(prompter):
    oracle, texts = Oracle(prompter, {}), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    found = deletion_test(oracle, prompter, texts, explanations)
    assert (found.top, found.random, found.interval) == (0, 0, (0, 0))
    assert found.sentence.endswith(
        "that cannot be told from chance; do not rely on the explanations"
    )


def test_explanations_that_are_wrong_are_told_of(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()
    wrong = []
    for text in texts:
        right = explain(oracle, prompter, text)
        words = [word._replace(contribution=-word.contribution) for word in right.words]
        wrong.append(Explanation(right.label, right.probability, words))
    found = deletion_test(oracle, prompter, texts, wrong)
    assert found.top == pytest.approx(0) and found.interval[1] < 0
    assert "point away from what the model uses" in found.sentence


def test_one_text_proves_nothing(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()[:1]
    found = deletion_test(oracle, prompter, texts, [explain(oracle, prompter, texts[0])])
    assert found.interval == (-1, 1) and "deletion test on 1 text:" in found.sentence
    assert "interval" not in found.sentence and "too few texts to tell" in found.sentence


def test_a_small_effect_is_not_praised(prompter):
    oracle, texts = Oracle(prompter, {"lovely": 0.1}), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    found = deletion_test(oracle, prompter, texts, explanations)
    assert found.interval[0] > 0 and found.top < 0.05
    difference = (
        f"the difference is +{100 * (found.top - found.random):.1f} points (95 % interval +"
    )
    assert difference in found.sentence
    assert found.sentence.endswith(
        "better than chance, but little of the answers rests on these words"
    )


# --- for a reader --------------------------------------------------------------------------------


def test_words_for_a_reader():
    text = "good bad dull meh odd"
    spans = list(words_of(text))
    contributions = [1.5, -2.0, -0.254, 0.004, None]
    words = [Word(*span, value, True) for span, value in zip(spans, contributions, strict=True)]
    assert as_words(text, Explanation("positive", 0.8, words)) == (
        "    for positive: good +1.50\n"
        "    against positive: bad −2.00  dull −0.25\n"
        "    not seen: 1 of 5 words (cut)"
    )
    nothing = Explanation("positive", 0.8, [word._replace(contribution=0.0) for word in words])
    assert as_words(text, nothing).count("no word") == 2


def run(*arguments):
    from typer.testing import CliRunner

    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return outcome.exit_code, outcome.stdout, outcome.stderr


def test_predict_explains(toy_run):
    texts = ["A lovely film.", "Dull 😀 to the end."]
    code, stdout, stderr = run("predict", *texts, "--adapter", toy_run, "--explain")
    lines = stdout.splitlines()
    assert code == 0 and len(lines) == 6 and "explained 2 texts in " in stderr
    for number, text in enumerate(texts):
        label = lines[3 * number].split()[0]
        assert lines[3 * number].endswith(text)
        assert lines[3 * number + 1].startswith(f"    for {label}: ")
        assert lines[3 * number + 2].startswith(f"    against {label}: ")
    code, plain, _ = run("predict", *texts, "--adapter", toy_run)
    assert plain.splitlines() == lines[::3]
    code, stdout, _ = run("predict", *texts, "--adapter", toy_run, "--explain", "--json")
    found = [json.loads(line) for line in stdout.splitlines()]
    assert [one["text"] for one in found] == texts
    for one in found:
        words = one["explanation"]["words"]
        assert one["explanation"]["label"] == one["label"]
        assert [one["text"][word["start"] : word["end"]] for word in words] == one["text"].split()
        assert all(word["alone"] and isinstance(word["contribution"], float) for word in words)


def test_predict_writes_no_explanation_into_a_table(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\nA lovely film.\n")
    code, _, stderr = run("predict", "--input", path, "--output", tmp_path / "o.csv", "--explain")
    assert code == 2 and "--explain prints, a table has no place for it" in stderr


def test_the_surest_errors_of_a_report_are_explained(toy_run, tmp_path, monkeypatch):
    from sentilora.evaluation.table import as_table
    from sentilora.stages import evaluate as stage

    monkeypatch.setattr("sentilora.evaluation.measuring.MAX_EXPLAINED", 3)
    report = tmp_path / "report"
    result = stage.evaluate(toy_run, overrides={"data.num_test": 20}, report=report)
    num_errors = round(20 * (1 - result.adapter.accuracy))
    found = result.explained
    assert len(found.rows) == 3 and found.num_errors == num_errors and found.seconds > 0
    assert found.deletion.num_texts == 3
    assert f"explained the 3 surest of {num_errors} errors in " in as_table(result)
    assert found.deletion.sentence in as_table(result)
    figures = json.loads((report / "report.json").read_text(encoding="utf-8"))
    stored = figures["evaluation"]["explained"]
    assert {int(number) for number in stored["rows"]} == set(found.rows)
    for number, explanation in found.rows.items():
        assert stored["rows"][str(number)]["words"] == [list(word) for word in explanation.words]
    assert stage.evaluate(toy_run, overrides={"data.num_test": 20}).explained is None
