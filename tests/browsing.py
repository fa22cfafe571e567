"""What the tests of the page do in a browser: type, drop a file, save one, and hold a request."""

import csv
import io
import json

KEY = "the key of the page's tests"
MANY_LABELS = [f"intent_{i:02}" for i in range(13)]


def visit_with(contexts, errors, urls, chromium, url, *, key=KEY, is_ready=True, **options):
    """A page that is open. errors, urls: get what it reports, and what it asks for."""
    context = chromium.new_context(**options)
    contexts.append(context)
    if key is not None:
        context.add_init_script(f"sessionStorage.setItem('api-key', {json.dumps(key)})")
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(url)
    if is_ready:
        page.locator("body.ready").wait_for()
    return page


def classify(page, text):
    page.locator("textarea").first.fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()


def choose_model(page, name):
    page.locator("#model select").select_option(name)


def drop(page, content, name="texts.csv"):
    """Drops a file on the page, as a hand would."""
    data = content.encode() if isinstance(content, str) else content
    transfer = page.evaluate_handle(
        "([bytes, name]) => { const transfer = new DataTransfer();"
        "transfer.items.add(new File([new Uint8Array(bytes)], name)); return transfer; }",
        [list(data), name],
    )
    page.locator("#file-tab").click()
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
    assert text.startswith("\ufeff")  # so that Excel reads UTF-8
    return list(csv.reader(io.StringIO(text[1:], newline=""), delimiter=delimiter))


def text_of(locator):
    return locator.inner_text().replace("\u00a0", " ")


class Sent:
    """The bodies that a page sends to a route, in order."""

    def __init__(self, page, path="/v1/classify"):
        self.bodies = []
        page.on("request", lambda request: self._note(request, path))

    def _note(self, request, path):
        if request.url.endswith(path):
            self.bodies.append(request.post_data_json)


class Faults:
    """Answers a route's next requests with faults, (status, headers), or holds them."""

    def __init__(self, page, path="/v1/classify"):
        self.next, self.held, self.is_holding = [], [], False
        page.route("**" + path, self._answer)

    def _answer(self, route):
        if self.is_holding:
            self.held.append(route)
        elif self.next:
            status, headers = self.next.pop(0)
            error = {"error": {"message": "a made-up fault", "code": status}}
            route.fulfill(status=status, headers=headers, json=error)
        else:
            route.continue_()
