"""The page at / in a browser, against a stand-in for the server: texts, files, review, faults."""

import csv
import io
import json
import re
import shutil
import subprocess
import tarfile

import pytest
from page_server import ASSETS, EXAMPLES, PageServer, adapter

AXE = "axe-core@4.14.1"
PHONE = {"width": 360, "height": 780}
INTENTS = [f"intent_{i:02}" for i in range(13)]
PAIRS = adapter(
    "pairs", labels=["entailment", "neutral", "contradiction"], columns=["premise", "hypothesis"],
    abstain_below=None, examples=[{"premise": "A good day.", "hypothesis": "It was great."}],
)  # fmt: skip


@pytest.fixture
def server():
    server = PageServer().start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(chromium, server):
    """Opens the page. Afterwards: no script error, no dialog, no request to anywhere else."""
    contexts, errors, urls = [], [], []

    def visit(is_ready=True, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(server.url)
        if is_ready:
            page.locator("body.ready").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    # Chromium itself reports each refused request; a breach of the policy would read otherwise.
    assert [e for e in errors if not e.startswith("Failed to load resource")] == []
    assert urls and all(url.startswith((server.url, "blob:" + server.url)) for url in urls)


def classify(page, text):
    page.locator("textarea").first.fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()


def drop(page, content, name="texts.csv"):
    """Drops a file on the page, as a hand would."""
    data = content.encode() if isinstance(content, str) else content
    transfer = page.evaluate_handle(
        "([bytes, name]) => { const transfer = new DataTransfer();"
        "transfer.items.add(new File([new Uint8Array(bytes)], name)); return transfer; }",
        [list(data), name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def classify_file(page, content, **options):
    drop(page, content, **options)
    page.locator("#classify-file").click()
    page.locator("#results table").wait_for()


def downloaded(page, name):
    """(file name, text) of what a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value.suggested_filename, download.value.path().read_bytes().decode()


def rows_of(text, delimiter=","):
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text[1:], newline=""), delimiter=delimiter))


def text_of(locator):
    return locator.inner_text().replace("\u00a0", " ")


# --- one text


def test_a_text_gets_its_label_a_bar_each_and_the_words_that_moved_it(visit, server):
    page = visit()
    classify(page, "😀 A good film & <b>dull</b>")
    answer = page.locator("#answer")
    answer.locator(".big").wait_for()
    assert text_of(answer.locator(".big")) == "No answer"  # 60 % is below the threshold
    assert "likeliest label is negative" in text_of(answer) and "below the 80 %" in text_of(answer)
    classify(page, "😀 A great film, loved it: <b>dull</b>")
    page.locator(".big", has_text="positive").wait_for()
    assert answer.locator(".bars li").count() == 2 and "tokens" in text_of(answer)
    page.get_by_role("button", name="Show the words").click()
    marks = answer.locator(".marked mark")
    marks.first.wait_for()
    shown = [(m.inner_text(), m.get_attribute("class")) for m in marks.all()]
    assert shown == [("great", "for"), ("loved", "for"), ("dull", "against")]
    text = answer.locator(".marked").evaluate("p => p.textContent")
    assert text == "😀 A great film, loved it: <b>dull</b>"
    assert [path for path, _ in server.state.posted] == ["/v1/classify"] * 2 + ["/v1/explain"]


def test_examples_history_and_the_base_beside_it(visit, server):
    page = visit()
    page.locator(".chip").nth(0).click()
    page.locator("#answer .big").wait_for()
    page.locator("#compare").check()
    page.locator(".chip").nth(1).click()
    page.locator("#answer .pair").wait_for()
    assert page.locator("#answer .big").all_inner_texts() == ["negative", "negative"]
    assert page.locator("#answer h3").all_inner_texts() == [
        "Fine-tuned",
        "Base, without the adapter",
    ]
    assert [body["model"] for _, body in server.state.posted] == ["default", "default", "tiny"]
    assert page.locator("#history li").count() == 2
    page.locator("#history button").nth(1).click()
    assert page.locator("textarea").input_value() == EXAMPLES[0]
    assert page.locator("#answer .big").inner_text() == "positive"
    assert len(server.state.posted) == 3  # what was answered is not asked again


def test_many_labels_are_folded_and_a_cut_text_is_noted(visit, server):
    server.state.models = [adapter("intents", labels=INTENTS, abstain_below=None, examples=[])]
    page = visit()
    assert page.locator("#examples-box, #compare-box").evaluate_all("b => b.every(x => x.hidden)")
    classify(page, "good " * 1000)
    page.locator("#answer .big").wait_for()
    assert page.locator("#answer .bars li").count() == 8
    assert "saw only a part of it" in page.locator("#answer").inner_text()
    page.get_by_role("button", name="Show all 13 labels").click()
    assert page.locator("#answer .bars .name").all_inner_texts()[0] == INTENTS[0]
    assert page.locator("#answer .bars li").count() == 13


def test_an_adapter_with_columns_gets_a_field_each(visit, server):
    server.state.models = [adapter(), PAIRS]
    page = visit()
    page.locator("#model select").select_option("pairs")
    page.get_by_label("premise").fill("A good day")
    page.get_by_label("hypothesis").fill("It is great")
    page.keyboard.press("Control+Enter")
    page.locator("#answer .big").wait_for()
    value = {"premise": "A good day", "hypothesis": "It is great"}
    assert server.state.posted[-1][1] == {"model": "pairs", "input": value}
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    assert page.locator(".marked").all_inner_texts() == list(value.values())
    page.locator("#file-tab").click()
    drop(page, "gold,hypothesis,premise\nx,It is great,A good day\ny,It is awful,A bad day\n")
    page.locator("#classify-file").click()
    page.locator("#results table").wait_for()
    asked = [body["input"] for _, body in server.state.posted[2:]]
    assert value in asked and {"premise": "A bad day", "hypothesis": "It is awful"} in asked


# --- faults


def test_a_slow_server_shows_a_spinner_and_can_be_canceled(visit, server):
    page = visit()
    classify(page, "good")
    page.locator("#answer .big").wait_for()
    assert page.locator(".waiting").count() == 0
    server.state.seconds = 1.5
    classify(page, "awful film")
    page.locator(".waiting .spinner").wait_for()
    assert not page.locator("#answer .block").is_visible()  # the old answer is not this text's
    page.get_by_role("button", name="Cancel").click()
    assert page.locator("#text-status").inner_text() == "Canceled."
    page.wait_for_timeout(1700)
    assert page.locator("#answer").inner_text() == "" and page.locator("#history li").count() == 1
    classify(page, "awful film")
    page.locator("#answer .big", has_text="negative").wait_for()


@pytest.mark.parametrize(("status", "words"), [(429, "busy"), (503, "starting its model")])
def test_a_refusal_is_waited_out_as_long_as_it_says(visit, server, status, words):
    page = visit()
    server.state.faults = [(status, [("Retry-After", "2")])]
    classify(page, "great")
    page.locator(".waiting", has_text=words).wait_for()
    assert "Trying again in" in page.locator(".waiting").inner_text()
    page.locator("#answer .big", has_text="positive").wait_for()
    assert page.locator("#text-status").inner_text() == ""


@pytest.mark.parametrize(
    ("status", "words", "can_retry"),
    [
        (404, "does not know this model", False),
        (413, "too long for the server", False),
        (422, "cannot classify this. The server says: a made-up fault", False),
        (500, "made an error (500)", True),
        (504, "took too long", True),
    ],
)
def test_an_error_is_told_in_words(visit, server, status, words, can_retry):
    page = visit()
    server.state.faults = [(status, [])]
    classify(page, "great")
    page.locator(".alert", has_text=words).wait_for()
    again = page.get_by_role("button", name="Try again")
    assert again.count() == can_retry
    if can_retry:
        again.click()
        page.locator("#answer .big", has_text="positive").wait_for()
        assert page.locator(".alert").count() == 0


def test_a_server_that_is_gone_is_told_and_found_again(visit, server):
    page = visit()
    page.context.set_offline(True)
    classify(page, "great")
    page.locator(".alert", has_text="The server does not answer").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator("#answer .big", has_text="positive").wait_for()


def test_the_key_is_asked_for_and_kept_for_the_tab(visit, server):
    server.state.key = "secret"
    page = visit(is_ready=False)
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    page.locator("#key-note", has_text="refused that key").wait_for()
    page.keyboard.press("Escape")
    page.locator(".alert", has_text="API key").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator("#key").fill("secret")
    page.keyboard.press("Enter")
    page.locator("body.ready").wait_for()
    page.reload()
    page.locator("body.ready").wait_for()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


# --- a file


def test_a_dropped_file_is_classified_and_downloaded(visit, server):
    texts = ["A great film,\nloved it", 'An "awful" one; dull', "good but dull", "", "=1+1 great",
             "unclassifiable"]  # fmt: skip
    source = io.StringIO()
    csv.writer(source, delimiter=";").writerows(
        [
            ["id", "review", "note"],
            *([i, text, "-3,5" if i else "@x"] for i, text in enumerate(texts)),
        ]
    )
    page = visit()
    page.locator("#file-tab").click()
    drop(page, "\ufeff" + source.getvalue(), name="reviews.csv")
    page.locator("#classify-file", has_text="Classify 6 rows").wait_for()
    assert "semicolons" in page.locator("#file-settings").inner_text()
    page.locator("#classify-file").click()
    page.locator("#results tbody tr").nth(5).wait_for()
    name, text = downloaded(page, "Download CSV")
    head, *rows = rows_of(text, ";")
    assert name == "reviews-labeled.csv"
    assert head == ["id", "review", "note", "prediction", "probability_positive",
                    "probability_negative", "truncated", "reason"]  # fmt: skip
    predictions = ["positive", "negative", "abstain", "", "positive", ""]
    assert [row[3] for row in rows] == predictions
    assert [row[1] for row in rows][:3] == [texts[0], texts[1], texts[2]]
    assert rows[4][1] == "'=1+1 great"  # not a formula
    assert [row[2] for row in rows] == ["'@x"] + ["-3,5"] * 5  # a number is no formula
    assert rows[3][7] == "empty text" and "no usable words" in rows[5][7]
    page.get_by_label("Show").select_option("abstained")
    assert page.locator("#results tbody tr").count() == 1
    page.locator(".clamped").click()
    assert page.locator(".details .bars li").count() == 2


@pytest.mark.parametrize(
    ("content", "told", "texts"),
    [
        ("text\ngrün\n".encode("cp1252"), "not UTF-8", ["grün"]),
        ("text\tgold\ngrün\tx\n".encode("utf-16"), "UTF-16", ["grün"]),
        ("sep=;\na, b;c, d\n1;a text\n", "1 row, UTF-8, semicolons", ["a text"]),
        ('label,text\na,"two\r\nlines ""x"""\n', "1 row", ['two\r\nlines "x"']),
        ("gold|sentence\nx|A, B\ny|C, D\n", "bars between", ["A, B", "C, D"]),
        ("n,words\n1,a longer text\n2,another text\n", "2 rows", ["a longer text", "another text"]),
    ],
)
def test_encodings_delimiters_and_the_text_column_are_guessed(visit, server, content, told, texts):
    page = visit()
    page.locator("#file-tab").click()
    classify_file(page, content)
    assert told in page.locator("#file-settings").inner_text()
    sent = server.state.posted[0][1]["input"]
    assert sent == texts


def test_each_line_of_a_text_file_is_a_text(visit, server):
    page = visit()
    page.locator("#file-tab").click()
    classify_file(page, 'Great, great film.\r\n\r\n"Dull" film.\r\n', name="texts.txt")
    assert server.state.posted[0][1]["input"] == ["Great, great film.", '"Dull" film.']


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04rest", "Excel file"),
        (b"PAR1\x00\x00\x00", "not a text file"),
        (b"", "empty"),
        (b"text,label\n", "no rows"),
        (b'text,label\n"never closed,x\n', "opens in line 2 never closes"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(visit, server, content, told):
    page = visit()
    page.locator("#file-tab").click()
    drop(page, content)
    page.locator("#file-status .alert", has_text=told).wait_for()
    assert server.state.posted == []


def test_a_file_can_be_canceled_goes_on_after_a_fault_and_loses_nothing(visit, server):
    page = visit()
    page.locator("#file-tab").click()
    server.state.seconds = 1
    drop(page, "text\n" + "".join(f"great film {i}\n" for i in range(200)))
    page.locator("#classify-file").click()
    page.locator("#progress-text", has_text=re.compile("^(32|64|96) of 200")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#results .notice", has_text="of 200 rows are done").wait_for()
    server.state.seconds = 0
    server.state.faults = [(429, [("Retry-After", "1")]), (500, [])]
    page.get_by_role("button", name="Continue").click()
    page.locator("#file-status .alert", has_text="error (500)").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator("#results .notice").wait_for(state="detached")
    assert "200 (100 %)" in text_of(page.locator("#results .bars"))
    texts = [text for _, body in server.state.posted for text in body["input"]]
    assert set(texts) == {f"great film {i}" for i in range(200)}


def test_a_batch_too_large_for_the_server_is_halved(visit, server):
    server.state.longest = 300
    page = visit()
    page.locator("#file-tab").click()
    classify_file(
        page, "text\n" + "".join(f"great {'x' * 90} {i}\n" for i in range(20)) + "y" * 400
    )
    assert page.locator("#results .bars .number").all_inner_texts()[0].startswith("20 ")
    assert text_of(page.locator("#results .bars .bad")) == "no answer"


# --- review


def test_uncertain_answers_are_labeled_by_key_and_exported(visit, server):
    page = visit()
    classify(page, "good but dull")
    page.locator("#review-count", has_text="1").wait_for()
    page.locator("#file-tab").click()
    classify_file(page, "text\nnothing here\ngreat film\n")
    page.locator("#review-tab").click()
    page.locator("#review-count", has_text="3").wait_for()
    first = page.locator(".reading").inner_text()
    page.keyboard.press("9")  # no such label
    page.keyboard.press("2")
    second = page.locator(".reading").inner_text()
    page.keyboard.press("s")
    third = page.locator(".reading").inner_text()
    page.keyboard.press("1")
    page.get_by_role("button", name="Change").first.click()
    assert page.locator(".reading").inner_text() == third
    page.keyboard.press("2")
    name, text = downloaded(page, "Export 2 labels")
    assert name == "review-default.jsonl"
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == [{"text": third, "label": "negative"}, {"text": first, "label": "negative"}]
    assert {first, second, third} == {"good but dull", "nothing here", "great film"}
    assert all(path == "/v1/classify" for path, _ in server.state.posted)  # nothing is kept there
    page.locator("#text-tab").click()
    page.locator("textarea").fill("1")  # typing elsewhere labels nothing
    page.keyboard.press("2")
    assert page.locator("#review-count").inner_text() == "1"


def test_labels_are_stored_on_the_server_where_it_keeps_them(visit, server):
    server.state.review = True
    page = visit()
    classify(page, "good but dull")
    page.locator("#answer .big").wait_for()
    page.locator("#review-tab").click()
    server.state.faults = [(500, [])]
    page.keyboard.press("1")
    page.locator("#review-status .alert").wait_for()
    assert page.locator("#review-count").inner_text() == "1"  # not labeled, since it is not stored
    page.get_by_role("button", name="Try again").click()
    page.locator("#labeled li").wait_for()
    (stored,) = server.state.stored
    assert (stored["text"], stored["label"]) == ("good but dull", "positive")
    assert set(stored["probabilities"]) == {"positive", "negative"} and stored["predicted"]
    _, text = downloaded(page, "Export all stored labels")
    assert json.loads(text) == {"text": "good but dull", "label": "positive"}


# --- looks and access


def test_the_tabs_and_the_form_work_by_keyboard_alone(visit, server):
    page = visit()
    page.locator("#text-tab").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#file-panel").is_visible() and not page.locator("#text-panel").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.type("great")
    page.keyboard.press("Control+Enter")
    page.locator("#answer .big", has_text="positive").wait_for()
    assert page.evaluate("document.activeElement.id") == "field-0"


def test_the_theme_follows_the_system_until_it_is_chosen(visit, server):
    color = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(color_scheme=scheme) for scheme in ("light", "dark"))
    backs = light.evaluate(color), dark.evaluate(color)
    light.locator("#theme").click()
    assert backs[0] != backs[1] == light.evaluate(color)
    light.reload()
    assert light.evaluate(color) == backs[1]


def test_the_page_names_no_other_host_and_has_nothing_inline():
    files = sorted(ASSETS.iterdir())
    assert len(files) >= 8
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "style=" not in text, path.name
    assert "<script>" not in (ASSETS / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """axe-core's script, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm here to fetch axe-core with")
    done = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch {AXE} here")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_has_nothing_to_object_to_and_nothing_sticks_out(visit, server, axe, scheme, width):
    server.state.models += [adapter("intents", labels=INTENTS), PAIRS]
    viewport = {"width": width, "height": 780}
    page = visit(color_scheme=scheme, viewport=viewport, bypass_csp=True)  # to add axe's script
    page.evaluate(axe)
    checked = []

    def check(state):
        result = page.evaluate("axe.run()")
        found = [(v["id"], [n["target"] for n in v["nodes"]]) for v in result["violations"]]
        assert found == [], state
        assert page.evaluate("document.documentElement.scrollWidth") == width, state
        checked.append(len(result["passes"]))

    check("start")
    page.locator("#compare").check()
    page.locator(".chip").nth(2).click()
    page.locator(".pair").wait_for()
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    check("answer")
    server.state.seconds = 2
    classify(page, "great")
    page.locator(".waiting").wait_for()
    check("slow")
    page.get_by_role("button", name="Cancel").click()
    server.state.seconds = 0
    server.state.faults = [(500, [])]
    classify(page, "great")
    page.locator(".alert").wait_for()
    check("error")
    page.locator("#file-tab").click()
    texts = "".join(f"good but dull {i}\n" for i in range(60))
    classify_file(page, f"text\n{texts}unclassifiable\n{'great ' * 900}\n")
    page.locator(".clamped").first.click()
    check("results")
    page.locator("#review-tab").click()
    page.keyboard.press("1")
    page.locator("#labeled li").wait_for()
    check("review")
    page.locator("#text-tab").click()
    for model in ("intents", "pairs"):
        page.locator("#model select").select_option(model)
        page.locator(".chip").first.click()
        page.locator("#answer .big").wait_for()
        check(model)
    assert len(checked) == 8 and min(checked) >= 10
