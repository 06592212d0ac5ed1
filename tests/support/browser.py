"""Chromium, which opens a page and says what scripts find in it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
EARLY = """<script>
window.found = {errors: []};
window.addEventListener("error", event => found.errors.push(String(event.message || event.target.src)), true);
</script>"""
LATE = """<script>
window.addEventListener("load", () => {
  SCRIPT
  found.inner = innerWidth;
  found.width = document.documentElement.scrollWidth;
  found.title = document.title;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", event => {
  const pre = document.createElement("pre");
  pre.id = "found";
  pre.textContent = event.data;
  document.body.append(pre);
});
</script><iframe src="moved.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe></body>"""
"""Page with a frame of any width, as Chromium's own windows have at least 500 pixels."""


def in_browser(test):
    """Mark a test that starts a browser, which takes long and is not everywhere."""
    return pytest.mark.slow(pytest.mark.skipif(BROWSER is None, reason="there is no chromium or google-chrome")(test))


def opened(page: Path, folder: Path, width: int, script: str) -> tuple[dict[str, Any], str]:
    """Open a copy of the page that lies alone in a folder; give what a script has noted in ``found``, and all messages.

    Args:
        page: the page.
        folder: where its copy is made.
        width: of the window, in pixels.
        script: JavaScript that runs when the page has been loaded.
    """
    folder.mkdir(parents=True)
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{EARLY}", 1)
    end = LATE.replace("SCRIPT", script)
    (folder / "moved.html").write_text(text.replace("</body>", f"{end}</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-extensions", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr", "--hide-scrollbars", "--window-size=1400,1000",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    shown = re.search(r'<pre id="found">(.*?)</pre>', result.stdout, re.DOTALL)
    assert shown, result.stderr
    return json.loads(html.unescape(shown[1])), result.stderr
