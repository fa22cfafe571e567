"""Explanations: words and their positions, occlusion on oracles, deletion test, output."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import around_text

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
        before, after = around_text(self.prompter.format)
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
    result = [text[start:end] for start, end in words_of(blank)]
    assert result == words_in(clean_text(text))


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
    result = explain(oracle, prompter, text, label=label)
    total, sign = 0.125 + 2 + 0.5 - 0.25 - 3 + 2, -1 if label == 1 else 1
    assert result.label == ("negative" if label == 1 else "positive")
    assert result.probability == pytest.approx(1 / (1 + np.exp(-sign * total)))
    contributions = [(text[word.start : word.end], word.contribution) for word in result.words]
    expected = ["A", "lovely", "film", "😀,", "fine", "and", "never", "dull", "lovely"]
    assert [word for word, _ in contributions] == expected
    for word, contribution in contributions:
        assert contribution == pytest.approx(sign * WEIGHTS.get(word, 0.0))
    assert all(word.alone for word in result.words)
    assert oracle.calls == [10]  # one call: the text and each word


def test_contributions_are_divided_by_the_temperature(prompter):
    cold = explain(Oracle(prompter, WEIGHTS), prompter, "lovely film", temperature=4.0)
    assert cold.words[0].contribution == pytest.approx(0.5)
    assert cold.probability == pytest.approx(1 / (1 + np.exp(-2.125 / 4)))


def test_the_other_labels_of_several_are_summed(toy_tokenizer):
    prompter = Prompter(toy_tokenizer, PromptFormat(labels=("good", "bad", "mixed")))

    class OfThree(Oracle):
        def log_probs(self, prompts):
            return [[1.0, 0.5, 2.0 * ("but" in text)] for text in self.texts(prompts)]

    result = explain(OfThree(prompter, {}), prompter, "fine but long")
    others = np.log(np.exp(1.0) + np.exp(0.5))
    assert result.label == "mixed" and result.words[1].contribution == pytest.approx(2.0)
    assert result.probability == pytest.approx(np.exp(2) / np.exp([1.0, 0.5, 2.0]).sum())
    assert result.probability == pytest.approx(1 / (1 + np.exp(others - 2)))
    assert [word.contribution for word in result.words[::2]] == [0, 0]


def test_a_long_text_keeps_the_budget_and_finds_the_words(prompter):
    for num_words in (NUM_VARIANTS - 1, NUM_VARIANTS, 100, 101, 170):
        words = ["a"] * num_words
        words[7], words[num_words - 9] = "lovely", "dull"
        oracle = Oracle(prompter, WEIGHTS)
        result = explain(oracle, prompter, " ".join(words), label=0)
        assert len(result.words) == num_words and None not in [w.contribution for w in result.words]
        assert result.words[7][2:] == (pytest.approx(2.0), True)
        assert result.words[num_words - 9][2:] == (pytest.approx(-3.0), True)
        assert sum(oracle.calls) <= NUM_VARIANTS
        assert len(oracle.calls) == (1 if num_words < NUM_VARIANTS else 2)
        others = [w for at, w in enumerate(result.words) if at not in (7, num_words - 9)]
        assert all(word.contribution == pytest.approx(0) for word in others)
    assert not all(word.alone for word in result.words)


def test_words_that_are_not_scored_alone_share_their_stretch(prompter):
    text = " ".join(["dull"] * 4 + ["lovely"] + ["a"] * 3 + ["fine"] * 4)
    result = explain(Oracle(prompter, WEIGHTS), prompter, text, label=0, num_variants=9)
    # Three stretches of four words; five more prompts may be scored: one stretch.
    assert [word.alone for word in result.words] == [True] * 4 + [False] * 8
    assert [word.contribution for word in result.words] == pytest.approx([-3] * 4 + [0.5] * 8)


@pytest.mark.parametrize("text", ["lovely", " lovely\n", "<br>lovely", "。"])
def test_a_text_of_one_word(prompter, text):
    oracle = Oracle(prompter, WEIGHTS)
    result = explain(oracle, prompter, text)
    assert len(result.words) == 1 and oracle.calls == [2]
    assert result.words[0].contribution == pytest.approx(2.0 if "lovely" in text else 0.0)
    assert deletion_test(oracle, prompter, [text], [result]) is None


@pytest.mark.parametrize("text", ["", " \n", "<br />"])
def test_a_text_without_a_word_is_refused_as_everywhere(prompter, text):
    assert fault_of(text)
    with pytest.raises(DataError, match="empty"):
        explain(Oracle(prompter, WEIGHTS), prompter, text)


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_words_that_were_cut_off_have_no_contribution(toy_tokenizer, truncation):
    prompter = Prompter(toy_tokenizer, PromptFormat(max_length=120, truncation=truncation))
    text = " ".join(["lovely"] + [f"word{i}" for i in range(150)] + ["dull"])
    prompt = prompter.encode(text)
    assert prompt.truncated
    parts = [text[start:end] for start, end in prompt.spans]
    assert prompter.encode_parts(parts) == prompt.input_ids
    oracle = Oracle(prompter, WEIGHTS)
    result = explain(oracle, prompter, text)
    in_prompt = [word for word in result.words if word.contribution is not None]
    (shown,) = oracle.texts([prompt.input_ids])
    # A word that was cut in the middle is still in the prompt.
    assert len(in_prompt) == len(shown.replace(ELLIPSIS, " ").split())
    assert (result.words[0].contribution is not None) == (truncation != "tail")
    assert (result.words[-1].contribution is not None) == (truncation != "head")
    if truncation != "head":
        sign = 1 if result.label == "negative" else -1
        assert result.words[-1].contribution == pytest.approx(3 * sign)
    num_unseen = len(result.words) - len(in_prompt)
    assert f"truncated: {num_unseen} of 152 words not scored" in as_words(text, result)


def test_a_text_too_long_for_any_of_it_to_fit(toy_tokenizer):
    overhead = len(Prompter(toy_tokenizer, PromptFormat()).encode_parts([]))
    longest = max(map(len, Prompter(toy_tokenizer, PromptFormat()).label_ids))
    format = PromptFormat(max_length=overhead + longest + 1)
    prompter = Prompter(toy_tokenizer, format)
    text = "𓀀𓀁𓀂𓀃" * 30  # several tokens a character
    result = explain(Oracle(prompter, WEIGHTS), prompter, text)
    assert len(result.words) == 1
    assert deletion_test(Oracle(prompter, WEIGHTS), prompter, [text], [result]) is None


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


def test_the_oracles_most_important_words_lower_its_answer_more_than_random_ones(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    result = deletion_test(oracle, prompter, texts, explanations)
    sigmoid = [1 / (1 + np.exp(-x)) for x in (4.125, 0.125)]
    assert result.top == pytest.approx(sigmoid[0] - sigmoid[1])  # both words of each text
    assert 0 <= result.random < result.top / 2 and result.interval[0] > 0 and result.num_texts == 12
    assert result.sentence.startswith("deletion test on 12 texts: deleting the 10 % of words ")
    assert result.sentence.endswith("the explanations point to what the model uses")
    assert deletion_test(oracle, prompter, texts, explanations) == result  # the same draws


def test_a_model_that_ignores_the_text_is_reported(prompter):
    oracle, texts = Oracle(prompter, {}), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    result = deletion_test(oracle, prompter, texts, explanations)
    assert (result.top, result.random, result.interval) == (0, 0, (0, 0))
    assert result.sentence.endswith(
        "not distinguishable from chance; do not rely on the explanations"
    )


def test_wrong_explanations_are_reported(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()
    wrong = []
    for text in texts:
        right = explain(oracle, prompter, text)
        words = [word._replace(contribution=-word.contribution) for word in right.words]
        wrong.append(Explanation(right.label, right.probability, words))
    result = deletion_test(oracle, prompter, texts, wrong)
    assert result.top == pytest.approx(0) and result.interval[1] < 0
    assert "point away from what the model uses" in result.sentence


def test_one_text_proves_nothing(prompter):
    oracle, texts = Oracle(prompter, WEIGHTS), sample_texts()[:1]
    result = deletion_test(oracle, prompter, texts, [explain(oracle, prompter, texts[0])])
    assert result.interval == (-1, 1) and "deletion test on 1 text:" in result.sentence
    assert "interval" not in result.sentence and "too few texts to tell" in result.sentence


def test_a_small_effect_is_not_praised(prompter):
    oracle, texts = Oracle(prompter, {"lovely": 0.1}), sample_texts()
    explanations = [explain(oracle, prompter, text) for text in texts]
    result = deletion_test(oracle, prompter, texts, explanations)
    assert result.interval[0] > 0 and result.top < 0.05
    difference = (
        f"the difference is +{100 * (result.top - result.random):.1f} points (95 % interval +"
    )
    assert difference in result.sentence
    assert result.sentence.endswith(
        "better than chance, but the answers depend little on these words"
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
        "    truncated: 1 of 5 words not scored"
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
    entries = [json.loads(line) for line in stdout.splitlines()]
    assert [one["text"] for one in entries] == texts
    for one in entries:
        words = one["explanation"]["words"]
        assert one["explanation"]["label"] == one["label"]
        assert [one["text"][word["start"] : word["end"]] for word in words] == one["text"].split()
        assert all(word["alone"] and isinstance(word["contribution"], float) for word in words)


def test_predict_writes_no_explanation_into_a_table(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\nA lovely film.\n")
    code, _, stderr = run("predict", "--input", path, "--output", tmp_path / "o.csv", "--explain")
    assert code == 2
    assert "no column for what --explain finds; leave out --explain or --output" in stderr


def test_the_surest_errors_of_a_report_are_explained(toy_run, tmp_path, monkeypatch):
    from sentilora.evaluation.table import as_table
    from sentilora.stages import evaluate as stage

    monkeypatch.setattr("sentilora.evaluation.measuring.MAX_EXPLAINED", 3)
    report = tmp_path / "report"
    result = stage.evaluate(toy_run, overrides={"data.num_test": 20}, report=report)
    num_errors = round(20 * (1 - result.adapter.accuracy))
    explained = result.explained
    assert len(explained.rows) == 3 and explained.num_errors == num_errors and explained.seconds > 0
    assert explained.deletion.num_texts == 3
    assert f"explained the 3 most confident of {num_errors} errors in " in as_table(result)
    assert explained.deletion.sentence in as_table(result)
    figures = json.loads((report / "report.json").read_text(encoding="utf-8"))
    rows = figures["evaluation"]["explained"]["rows"]
    assert {int(number) for number in rows} == set(explained.rows)
    for number, explanation in explained.rows.items():
        assert rows[str(number)]["words"] == [list(word) for word in explanation.words]
    assert stage.evaluate(toy_run, overrides={"data.num_test": 20}).explained is None
