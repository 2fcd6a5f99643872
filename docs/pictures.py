"""The pictures of the README, after ``make demo``: ``.venv/bin/python docs/pictures.py``.

Runs the demo's sweep once more, into ``build/pictures``, keeps the fullest state of its live view, and draws
this view and the report in the system's Chromium. What is in ``build/pictures`` already is not made again.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI

from asdray.sweep import progress

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "build" / "pictures"
SWEEP = RESULTS / "sweeps" / "demo"
LIVE = RESULTS / "live.json"
COMMAND = "asdray sweep sweeps/demo.yaml"

TERMINAL = """<style>body {{ margin: 0; background: #1c1c22 }}
pre {{ display: inline-block; margin: 0; padding: 14px 18px; background: #1c1c22; color: #ddd;
font: 15px/1.35 "DejaVu Sans Mono", monospace }}</style><pre>$ {command}
{code}</pre>"""


def watch() -> None:
    """Runs the sweep, and keeps the snapshot with the most trainings and rows of the leaderboard."""
    places = ["--data", "demo/data", "--results", str(RESULTS), "--no-dashboard", "--retry-failed"]
    run = subprocess.Popen([sys.executable, "-m", *COMMAND.split(), *places], cwd=DOCS.parent)
    fullest = (0, 0)
    while run.poll() is None:
        snapshot = progress.read_snapshot(SWEEP) or {"training": [], "leaderboard": []}
        if (content := fullness(snapshot)) >= fullest and snapshot["training"]:
            fullest = content
            LIVE.write_text(json.dumps(snapshot))
        time.sleep(1)
    if run.returncode:
        sys.exit(run.returncode)


def fullness(snapshot: Mapping[str, Any]) -> tuple[int, int]:
    return len(snapshot["leaderboard"]), len(snapshot["training"])


def live_view() -> str:
    """The live view as HTML."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(progress.render(json.loads(LIVE.read_text())))
    code = console.export_html(theme=MONOKAI, inline_styles=True, code_format="{code}")
    return TERMINAL.format(command=COMMAND, code=code.rstrip())


def draw(browser: Browser) -> None:
    """``docs/live.png`` and ``docs/report.png``."""
    page = browser.new_page(device_scale_factor=1.5)
    page.set_content(live_view())
    page.locator("pre").screenshot(path=DOCS / "live.png")
    page = browser.new_page(viewport={"width": 1280, "height": 740})
    page.goto((SWEEP / "report.html").as_uri(), wait_until="load")
    page.locator(".main-svg").first.wait_for()
    page.screenshot(path=DOCS / "report.png")


def main() -> None:
    if not (LIVE.exists() and (SWEEP / "report.html").exists()):
        watch()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        draw(playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]))


if __name__ == "__main__":
    main()
