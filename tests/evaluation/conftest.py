"""A browser for the tests of the report's page."""

import os
import shutil
from importlib.util import find_spec

import pytest

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def chromium():
    if BROWSER is None or find_spec("playwright") is None:
        pytest.skip("no chromium here (Debian's package, or CHROMIUM=path) or no playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()
