"""The page where things go wrong: slow, busy and failing servers, odd files, and axe-core.

The server is real; faults are put between it and the page.
"""

import json
import re
from importlib.resources import files

import pytest
from browsing import Faults, Sent, choose_model, classify, classify_file, downloaded, drop, text_of

SURE = "A lovely, moving film, and a wonderful cast."
UNSURE = "A film with a dog."


# --- the server


def test_a_slow_server_shows_a_spinner_and_can_be_canceled(visit):
    page = visit()
    faults = Faults(page)
    classify(page, UNSURE)
    page.locator("#answer .big").wait_for()
    faults.is_holding = True
    classify(page, SURE)
    page.locator(".waiting .spinner").wait_for()
    old = page.locator("#answer .block")
    old.wait_for(state="hidden")  # it is not this text's answer; it fades as the spinner appears
    page.get_by_role("button", name="Cancel").click()
    assert page.locator("#text-status").inner_text() == "Canceled."
    old.wait_for(state="detached")
    assert page.locator("#answer").inner_text() == "" and page.locator("#history li").count() == 1
    faults.is_holding = False
    classify(page, SURE)
    page.locator("#answer .big", has_text="positive").wait_for()


@pytest.mark.parametrize(("status", "words"), [(429, "busy"), (503, "not ready: a made-up fault.")])
def test_a_refusal_is_waited_out_as_long_as_it_says(visit, status, words):
    page = visit()
    Faults(page).next = [(status, {"Retry-After": "2"})]
    classify(page, SURE)
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
def test_an_error_is_reported_in_words(visit, status, words, can_retry):
    page = visit()
    Faults(page).next = [(status, {})]
    classify(page, SURE)
    page.locator(".alert", has_text=words).wait_for()
    again = page.get_by_role("button", name="Try again")
    assert again.count() == can_retry
    if can_retry:
        again.click()
        page.locator("#answer .big", has_text="positive").wait_for()
        assert page.locator(".alert").count() == 0


def test_a_server_that_is_gone_is_reported_and_met_again(visit):
    page = visit()
    page.context.set_offline(True)
    classify(page, SURE)
    page.locator(".alert", has_text="The server does not answer").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator("#answer .big", has_text="positive").wait_for()


# --- a file


@pytest.mark.parametrize(
    ("content", "note", "texts"),
    [
        ("text\ngrün\n".encode("cp1252"), "not UTF-8", ["grün"]),
        ("text\tgold\ngrün\tx\n".encode("utf-16"), "UTF-16", ["grün"]),
        ("sep=;\na, b;c, d\n1;a text\n", "1 row, UTF-8, semicolons", ["a text"]),
        ('label,text\na,"two\r\nlines ""x"""\n', "1 row", ['two\r\nlines "x"']),
        ("gold|sentence\nx|A, B\ny|C, D\n", "bars between", ["A, B", "C, D"]),
        ("n,words\n1,a longer text\n2,another text\n", "2 rows", ["a longer text", "another text"]),
    ],
)
def test_encodings_delimiters_and_the_text_column_are_guessed(visit, content, note, texts):
    page = visit()
    sent = Sent(page)
    classify_file(page, content)
    assert note in page.locator("#file-settings").inner_text()
    assert sent.bodies[0]["input"] == texts


def test_each_line_of_a_text_file_is_a_text(visit):
    page = visit()
    sent = Sent(page)
    classify_file(page, 'Great, great film.\r\n\r\n"Dull" film.\r\n', name="texts.txt")
    assert sent.bodies[0]["input"] == ["Great, great film.", '"Dull" film.']


def test_a_download_runs_nothing_in_a_spreadsheet(visit):
    page = visit()
    classify_file(page, "note;text\n@x;=1+1 great\n-3,5;A film\n", name="notes.csv")
    lines = downloaded(page, "Download CSV")[1].splitlines()
    assert lines[1].startswith("'@x;'=1+1 great;") and lines[2].startswith('"-3,5";A film;')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04rest", "Excel file"),
        (b"PAR1\x00\x00\x00", "not a text file"),
        (b"", "empty"),
        (b"text,label\n", "no rows"),
        (b'text,label\n"never closed,x\n', "opens in line 2 never closes"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported(visit, content, words):
    page = visit()
    sent = Sent(page)
    drop(page, content)
    page.locator("#file-status .alert", has_text=words).wait_for()
    assert sent.bodies == []


def test_a_file_can_be_canceled_continues_after_a_fault_and_loses_nothing(visit):
    """Requests of 32 texts are too many for this server, so they are halved, too."""
    page = visit()
    faults, sent = Faults(page), Sent(page)
    faults.is_holding = True
    drop(page, "text\n" + "".join(f"great film {i}\n" for i in range(100)))
    page.locator("#classify-file").click()
    page.locator(".waiting .spinner").wait_for()
    some = page.locator("#progress-text", has_text=re.compile(r"\b[1-9]\d of 100"))
    while not some.count():  # one request after another, so that none can be ahead of this test
        if faults.held:
            faults.held.pop(0).continue_()
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Cancel").click()
    page.locator("#results .notice", has_text="of 100 rows are done").wait_for()
    faults.is_holding = False
    faults.next = [(429, {"Retry-After": "1"}), (500, {})]
    page.get_by_role("button", name="Continue").click()
    page.locator("#file-status .alert", has_text="error (500)").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator("#results .notice").wait_for(state="detached")
    counts = text_of(page.locator("#results .bars"))
    assert "abstained" in counts or "positive" in counts
    assert "no answer" not in counts
    texts = [text for body in sent.bodies for text in body["input"] if len(body["input"]) <= 16]
    assert set(texts) == {f"great film {i}" for i in range(100)}


# --- review


def test_without_a_store_labels_stay_in_the_tab(visit):
    page = visit(is_ready=False)
    page.route("**/v1/models", lambda route: route.fulfill(
        json=json.loads(route.fetch().text()) | {"review": False}))  # fmt: skip
    sent = Sent(page, "/v1/review")
    page.reload()
    page.locator("body.ready").wait_for()
    classify_file(page, "text\nA film with a cat.\nA film with a cow.\nA film with a hen.\n")
    page.locator("#review-tab").click()
    assert "stay in this tab" in page.locator("#review-note").inner_text()
    first = page.locator(".reading").inner_text()
    page.keyboard.press("2")
    page.keyboard.press("s")  # skips
    page.keyboard.press("1")
    page.locator("#review-count", has_text="1").wait_for()
    rows = [json.loads(line) for line in downloaded(page, "Export 2 labels")[1].splitlines()]
    assert {"text": first, "label": "negative"} in rows and len(rows) == 2
    assert sent.bodies == []
    page.locator("#text-tab").click()
    page.locator("textarea").fill("1")  # typing elsewhere labels nothing
    page.keyboard.press("2")
    assert page.locator("#review-count").inner_text() == "1"


def test_a_label_that_is_not_stored_is_none(visit):
    page = visit()
    faults = Faults(page, "/v1/review")
    classify(page, UNSURE)
    page.locator("#answer .big").wait_for()
    page.locator("#review-tab").click()
    faults.next = [(500, {})]
    page.keyboard.press("1")
    page.locator("#review-status .alert").wait_for()
    assert page.locator("#review-count").inner_text() == "1"
    page.get_by_role("button", name="Try again").click()
    page.locator("#labeled li").wait_for()


# --- access


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_has_nothing_to_object_to_and_nothing_sticks_out(visit, scheme, width):
    axe = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 780}}
    page = visit(bypass_csp=True, key=None, is_ready=False, **options)  # to add axe's script
    page.evaluate(axe)
    checked = []

    def check(state):
        result = page.evaluate("axe.run()")
        violations = [(v["id"], [n["target"] for n in v["nodes"]]) for v in result["violations"]]
        assert violations == [], state
        assert page.evaluate("document.documentElement.scrollWidth") == width, state
        checked.append(len(result["passes"]))

    page.locator("#key").wait_for()
    check("key")
    page.close()
    page = visit(bypass_csp=True, **options)
    page.evaluate(axe)
    faults = Faults(page)
    check("start")
    page.locator("#compare").check()
    page.locator(".chip").nth(2).click()
    page.locator(".pair").wait_for()
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    check("answer")
    faults.is_holding = True
    classify(page, SURE)
    page.locator(".waiting").wait_for()
    check("slow")
    page.get_by_role("button", name="Cancel").click()
    faults.is_holding = False
    faults.next = [(500, {})]
    classify(page, SURE)
    page.locator(".alert").wait_for()
    check("error")
    page.locator("#file-tab").click()
    check("drop")
    texts = "".join(f"A film with {i} dogs.\n" for i in range(40))
    long = "A film with a dog, a cat and a cow. " * 60
    classify_file(page, f"text\n{texts}<br />\n{'Great. ' * 900}\n{long}\n")
    page.locator(".clamped").first.click()
    check("results")
    page.locator("#review-tab").click()
    check("review")
    page.keyboard.press("1")
    page.locator("#labeled li").wait_for()
    check("labeled")
    page.locator("#text-tab").click()
    page.locator("#compare").uncheck()
    classify(page, long)
    page.locator("#answer .big").wait_for()
    page.get_by_role("button", name="Show the words").click()
    page.locator(".marked mark").first.wait_for()
    check("long")
    for model in ("intents", "titled"):
        choose_model(page, model)
        for field in page.locator("textarea").all():
            field.fill(UNSURE)
        page.keyboard.press("Control+Enter")
        page.locator("#answer .big").wait_for()
        check(model)
    assert len(checked) == 12 and min(checked) >= 20
