"""The page at / in a browser, against a real server: texts, files, review, keyboard, looks."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from browsing import (
    KEY,
    MANY_LABELS,
    Sent,
    choose_model,
    classify,
    classify_file,
    downloaded,
    drop,
    rows_of,
    text_of,
)

import sentilora
from sentilora.shipped import page_folder, reviews_path

SURE = "A lovely, moving film, and a wonderful cast."
UNSURE = "A film with a dog."
TITLED = {"text": "A lovely film.", "title": "The Farm"}


def answer_of(server, **body):
    response = server.post("/v1/classify", {"model": "films"} | body)
    assert response.status_code == 200, response.text
    return response.json()["data"][0]


def percent(p):
    return f"{100 * p:.1f} %"


# --- one text


def test_a_text_gets_its_label_a_bar_each_and_the_words_that_moved_it(visit, page_server):
    page = visit()
    text = "😀 A lovely film & <b>dull</b>"
    classify(page, text)
    page.locator("#answer .big").wait_for()
    item = answer_of(page_server, input=text)
    names = page.locator("#answer .name").all_inner_texts()
    numbers = map(text_of, page.locator("#answer .number").all())
    shown = dict(zip(names, numbers, strict=True))
    assert shown == {label: percent(p) for label, p in item["probabilities"].items()}
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    assert page.locator(".marked").evaluate("p => p.textContent") == text
    body = {"model": "films", "input": text}
    words = page_server.post("/v1/explain", body).json()["words"]
    strongest = max(words, key=lambda word: abs(word["contribution"]))
    mark = page.locator(".marked mark").evaluate_all(
        "all => all.sort((a, b) => b.style.getPropertyValue('--weight') - "
        "a.style.getPropertyValue('--weight'))[0].textContent"
    )
    assert mark == text[strongest["start"] : strongest["end"]]


def test_an_answer_below_the_threshold_is_none(visit, page_server):
    assert answer_of(page_server, input=UNSURE)["abstained"]
    page = visit()
    classify(page, UNSURE)
    page.locator("#answer .big", has_text="No answer").wait_for()
    assert "below the 90 % it needs" in text_of(page.locator("#answer"))
    assert page.locator("#review-count").inner_text() == "1"


def test_examples_history_and_the_base_beside_it(visit, page_server):
    page = visit()
    sent = Sent(page)
    examples = page_server.client.get("/v1/models").json()["data"][0]["examples"]
    assert page.locator(".chip").all_inner_texts() == examples
    page.locator(".chip").nth(0).click()
    page.locator("#answer .big").wait_for()
    page.locator("#compare").check()
    page.locator(".chip").nth(1).click()
    page.locator("#answer .pair").wait_for()
    titles = page.locator("#answer h3").all_inner_texts()
    assert titles == ["Fine-tuned", "Base, without the adapter"]
    base = answer_of(page_server, model="embedded", input=examples[1])
    assert percent(base["probabilities"]["negative"]) in text_of(
        page.locator("#answer .block.base")
    )
    assert [body["model"] for body in sent.bodies] == ["films", "films", "embedded"]
    page.locator("#history button").nth(1).click()
    assert page.locator("textarea").input_value() == examples[0]
    assert page.locator("#answer .pair").count() == 0
    assert len(sent.bodies) == 3  # what was answered is not asked again


def test_many_labels_are_folded_and_a_cut_text_is_noted(visit):
    page = visit()
    choose_model(page, "intents")
    assert not page.locator("#compare-box").is_visible()  # the base gets the prompt of films
    classify(page, "good " * 1000)
    page.locator("#answer .big").wait_for()
    assert page.locator("#answer .bars li").count() == 8
    assert "saw only a part of it" in page.locator("#answer").inner_text()
    page.get_by_role("button", name="Show all 13 labels").click()
    assert sorted(page.locator("#answer .bars .name").all_inner_texts()) == MANY_LABELS


def test_an_adapter_with_columns_gets_a_field_each(visit, page_server):
    page = visit()
    sent = Sent(page)
    choose_model(page, "titled")
    for name, value in TITLED.items():
        page.get_by_label(name, exact=True).fill(value)
    page.keyboard.press("Control+Enter")
    page.locator("#answer .big").wait_for()
    assert sent.bodies == [{"model": "titled", "input": TITLED}]
    item = answer_of(page_server, **sent.bodies[0])
    assert percent(item["probabilities"]["positive"]) in text_of(page.locator("#answer"))
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    assert page.locator(".marked").all_inner_texts() == [TITLED["text"]]
    classify_file(page, "gold,title,text\nx,The Farm,A lovely film.\ny,,Dull.\nz,No text,\n")
    rows = [TITLED, {"text": "Dull.", "title": ""}]
    assert sent.bodies[1:] == [{"model": "titled", "input": rows}]
    assert "1 (33 %)" in text_of(page.locator("#results .bars"))


# --- the key, and a server that comes back


def test_the_key_is_asked_for_and_kept_for_the_tab(visit, page_server):
    front = httpx.get(page_server.url + "/")
    script = httpx.get(page_server.url + "/page/main.js")
    assert (front.status_code, script.status_code) == (200, 200)  # without the key
    assert script.headers["content-type"].startswith("text/javascript")
    for answer in (front, script):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"  # a newer version is seen at once
    page = visit(key=None, is_ready=False)
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    page.locator("#key-note", has_text="refused that key").wait_for()
    page.keyboard.press("Escape")
    page.locator(".alert", has_text="API key").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator("body.ready").wait_for()
    page.reload()
    page.locator("body.ready").wait_for()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


@pytest.mark.slow
def test_a_model_that_restarts_is_waited_for(visit, page_server):
    page = visit()
    os.kill(page_server.model_pid(), signal.SIGKILL)
    page.wait_for_timeout(500)
    classify(page, SURE)
    page.locator(".waiting", has_text="The server is not ready: the model is").wait_for()
    page.locator("#answer .big", has_text="positive").wait_for(timeout=120_000)


# --- a file


def test_a_file_gets_what_predict_writes(visit, calibrated_adapter, tmp_path):
    texts = [
        f"{SURE}\nReally.",
        'An "awful" film; dull, a waste of time. Nothing works, and I walked out.',
        UNSURE,
        "",
        "<br />",
        "Good. " * 400,
    ]
    source = io.StringIO(newline="")
    csv.writer(source).writerows([["id", "text"], *enumerate(texts)])
    (tmp_path / "texts.csv").write_text(source.getvalue(), encoding="utf-8", newline="")
    output = tmp_path / "out.csv"
    sentilora.predict(input=tmp_path / "texts.csv", output=output, adapter=calibrated_adapter)
    head, *expected = rows_of("\ufeff" + output.read_text(encoding="utf-8"))
    page = visit()
    classify_file(page, source.getvalue())
    name, text = downloaded(page, "Download CSV")
    own_head, *rows = rows_of(text)
    assert name == "texts-labeled.csv" and own_head == head
    assert {row[2] for row in rows} == {"positive", "negative", "abstain", ""}
    for row, other in zip(rows, expected, strict=True):
        assert row[:3] + row[5:6] == other[:3] + other[5:6]
        assert bool(row[6]) == bool(other[6])  # both have a reason, or none
        for p, other_p in zip(row[3:5], other[3:5], strict=True):
            assert p == other_p == "" or float(p) == pytest.approx(float(other_p), abs=1e-5)
    page.get_by_label("Show").select_option("abstained")
    page.locator("#results tbody .clamped").first.click()
    assert page.locator(".details .bars li").count() == 2
    classify_file(page, "n,text\n1,A lovely film.\n")
    head, _ = rows_of(downloaded(page, "Download CSV")[1])
    assert head[-1] == "truncated"  # every row has an answer, so no column of reasons
    drop(page, "prediction,text\nx,A lovely film.\n")
    page.locator("#classify-file").click()
    page.locator(".alert", has_text="already has a column prediction").wait_for()


# --- review


def test_labels_are_stored_and_the_last_one_of_a_text_wins(visit, page_server):
    page = visit()
    classify_file(page, "text\nA film with a cat.\nA film with a cow.\nA film with a hen.\n")
    page.locator("#review-tab").click()
    page.locator("#review-count", has_text="3").wait_for()
    read = {}
    for key, label in (("1", "positive"), ("2", "negative"), ("1", "positive")):
        text = page.locator(".reading").inner_text()
        page.keyboard.press("9")  # no such label
        page.keyboard.press(key)
        page.locator("#labeled li", has_text=text).wait_for()
        read[text] = label
    page.get_by_role("button", name="Change").first.click()
    page.keyboard.press("2")
    page.locator("#labeled li .tag", has_text="negative").first.wait_for()
    page.locator(".empty", has_text="All labeled").wait_for()
    read[text] = "negative"
    name, content = downloaded(page, "Export all stored labels")
    assert name == "review-films.jsonl"
    rows = [row for row in map(json.loads, content.splitlines()) if row["text"] in read]
    assert {row["text"]: row["label"] for row in rows} == read and len(rows) == 3
    choose_model(page, "intents")
    assert downloaded(page, "Export all stored labels")[1] == ""  # other labels, other rows


@pytest.mark.slow
def test_what_was_labeled_can_be_trained_on(visit, tmp_path):
    """The way that the page names: added to the rows one has. Alone they are too few."""
    page = visit()
    examples = page.locator(".chip")
    for number in range(3):
        examples.nth(number).click()
        page.locator("#history li").nth(number).wait_for()
        page.locator(".actions", has_text="review").last.wait_for()
        if (add := page.get_by_role("button", name="Add to review")).count():
            add.click()
    page.locator("#review-tab").click()
    for number, key in enumerate("212"):
        page.keyboard.press(key)
        page.locator("#labeled li").nth(number).wait_for()
    name, labeled = downloaded(page, "Export all stored labels")
    how = page.locator("#labeled-how").inner_text()
    assert how == f"cat {name} >> rows.jsonl && sentilora train rows.jsonl"
    (tmp_path / name).write_text(labeled, encoding="utf-8")

    def train(file, *more):
        command = [sys.executable, "-m", "sentilora", "train", file, "--output-dir", "run", *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(labeled.splitlines()[-3:]), encoding="utf-8")
    refused = train(few.name)
    assert refused.returncode == 3 and "has 3 rows, too few" in refused.stderr
    rows = reviews_path("train").read_text(encoding="utf-8") + labeled
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    done = train("rows.jsonl", "training.max_steps=1", "data.num_train=32", "data.num_evaluation=8")
    assert done.returncode == 0, done.stderr


# --- keyboard and looks


def test_the_tabs_and_the_form_work_by_keyboard_alone(visit):
    page = visit()
    page.locator("#text-tab").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#file-panel").is_visible() and not page.locator("#text-panel").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.type(SURE)
    page.keyboard.press("Control+Enter")
    page.locator("#answer .big", has_text="positive").wait_for()
    assert page.evaluate("document.activeElement.id") == "field-0"


def test_the_theme_follows_the_system_until_it_is_chosen(visit):
    color = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(color_scheme=scheme) for scheme in ("light", "dark"))
    backs = light.evaluate(color), dark.evaluate(color)
    light.locator("#theme").click()
    assert backs[0] != backs[1] == light.evaluate(color)
    light.reload()
    assert light.evaluate(color) == backs[1]


def test_the_page_names_no_other_host_and_has_nothing_inline():
    files = sorted(page_folder().iterdir())
    assert len(files) >= 8
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "style=" not in text, path.name
    assert "<script>" not in (page_folder() / "index.html").read_text(encoding="utf-8")
