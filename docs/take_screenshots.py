"""Screenshots of the report, the notebooks and the demo, as a browser shows them, in docs/figures/.

pip install playwright    # and a Chromium, here /usr/bin/chromium
make docs && python docs/take_screenshots.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Error, Page, sync_playwright

ROOT = Path(__file__).parents[1]
FIGURES, SITE = ROOT / "docs" / "figures", ROOT / "build" / "site"
DATA = Path(os.environ.get("CELLMNN_DATA", ROOT.parent / "shared" / "data"))
COURSE = DATA / "ipsc_cardiomyocyte.h5ad"
ADDRESS = "http://127.0.0.1:7861"
PATIENCE = 300_000  # ms


def report(page: Page, python: str) -> None:
    """Its beginning, and the fates."""
    file = Path(tempfile.mkdtemp(), "report.html")
    command = [python, "-m", "cellmnn_fm.cli", "report", "cellmnn-base", str(COURSE), "-o"]
    subprocess.run([*command, str(file), "--time-key", "time", "-q"], check=True)
    page.goto(file.as_uri())
    page.screenshot(path=FIGURES / "report.png")
    page.get_by_role("heading", name="Fates").evaluate("e => e.scrollIntoView()")
    page.screenshot(path=FIGURES / "report_fates.png")


def notebook(page: Page) -> None:
    """A notebook in the documentation."""
    page.goto((SITE / "notebooks" / "ipsc_cardiomyocyte.html").as_uri())
    page.screenshot(path=FIGURES / "notebook.png")


def demo(page: Page, python: str) -> None:
    """From a file to a predicted snapshot and to fates."""
    environment = {**os.environ, "GRADIO_SERVER_PORT": ADDRESS.rsplit(":", 1)[1]}
    server = subprocess.Popen([python, str(ROOT / "demo" / "app.py")], env=environment)
    try:
        for _ in range(60):
            try:
                page.goto(ADDRESS)
                break
            except Error:
                time.sleep(1)
        page.set_input_files("input[type=file]", COURSE)
        page.wait_for_selector("text=1,896 cells", timeout=PATIENCE)
        page.wait_for_timeout(3000)
        page.click("button:has-text('Interpolate')")
        page.wait_for_selector("a[download*=snapshot]", timeout=PATIENCE)
        page.wait_for_timeout(1000)
        page.screenshot(path=FIGURES / "demo_interpolation.png")
        page.get_by_role("tab", name="Where cells end").click()
        page.click("button:has-text('Follow cells')")
        page.wait_for_selector("a[download*=fates]", timeout=PATIENCE)
        page.wait_for_timeout(1000)
        page.screenshot(path=FIGURES / "demo_fates.png")
    finally:
        server.terminate()


if __name__ == "__main__":
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        report(page, python)
        notebook(page)
        demo(page, python)
        browser.close()
