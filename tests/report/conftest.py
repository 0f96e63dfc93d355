"""Reports of generated results."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.common.paths import REPORT
from pipeline.report.stage import report
from tests.support.report_results import HOSTILE, write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def make_report(tmp_path_factory):
    """Build a report of the given classes and images in a new folder, and return its path."""

    def build(classes=HOSTILE, images=80, corrections="", **options) -> Path:
        folder, before = tmp_path_factory.mktemp("report"), Path.cwd()
        shutil.copy(ROOT / "params.yaml", folder)
        write_run(folder, tuple(classes), images, **options)
        if corrections:
            (folder / "corrections.csv").write_text(corrections, "utf-8")
            params = (folder / "params.yaml").read_text("utf-8")
            (folder / "params.yaml").write_text(params.replace("corrections: null", "corrections: corrections.csv"))
        os.chdir(folder)
        try:
            report()
        finally:
            os.chdir(before)
        return folder / REPORT

    return build


@pytest.fixture(scope="session")
def small_report(make_report):
    """80 images of four classes with names that look like markup; every fourth is a mistake."""
    return make_report()


@pytest.fixture
def opened(chromium):
    """Open a file and wait until its charts are drawn; it may report no errors and send no requests."""
    problems, contexts = [], []

    def open_page(path: Path, width: int = 1400, height: int = 900, scheme: str = "light", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))

        def allow(route):
            if route.request.url.split("#")[0] == path.as_uri():
                route.continue_()
            else:
                problems.append(f"request: {route.request.url}")
                route.abort()

        page.route(lambda url: not url.startswith("data:"), allow)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
