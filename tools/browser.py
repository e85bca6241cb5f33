"""Headless Chromium, as far as the book needs it: the page as a reader's browser makes it, and the page as a PDF."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

TIMEOUT = 120  # seconds for a page
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network: a page that needs one shows it
)


def find() -> str | None:
    """The path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def require() -> str:
    """The path of a Chromium. Raises RuntimeError, with the remedy, where there is none."""
    if browser := find():
        return browser
    raise RuntimeError("this needs Chromium or Chrome, and none is on the PATH: for instance apt-get install chromium")


def run(page: Path, *options: str, address: str = "") -> str:
    """Open a page from disk in a browser of its own and return what it prints. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as profile:
        command = [require(), *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=15000", *options]
        done = subprocess.run(
            [*command, page.resolve().as_uri() + address], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(f"Chromium failed on {page.name}: {done.stderr.strip()[-300:]}")
    return done.stdout


def dom(page: Path, address: str = "", width: int = 1300) -> str:
    """The page's HTML after its scripts have run."""
    return run(page, f"--window-size={width},1000", "--dump-dom", address=address)


def pdf(page: Path, target: Path) -> None:
    """Print a page to a PDF, without the browser's own header and footer."""
    run(page, f"--print-to-pdf={target}", "--no-pdf-header-footer")


def ask(
    page: Path,
    script: str,
    *,
    sources: tuple[Path, ...] = (),
    address: str = "",
    width: int = 1300,
    theme: str = "light",
) -> object:
    """What ``script`` answers on the page, as a JSON value: it calls ``answer(value)`` once.

    The page is opened as a copy beside the original, so that everything it loads is found; ``complaints`` lists the
    errors and warnings of its scripts and the files that did not load.
    """
    text = page.read_text(encoding="utf-8")
    loaded = "".join(f'<script nonce="ask">{source.read_text(encoding="utf-8")}</script>' for source in sources)
    setup = (
        f"<script>localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');"
        "window.complaints = []; window.addEventListener('error', (e) => complaints.push("
        "e.message || 'a file did not load: ' + (e.target.src || e.target.href)), true);"
        "document.addEventListener('securitypolicyviolation', (e) => complaints.push("
        "`the policy forbids ${e.effectiveDirective} ${e.blockedURI}`));"
        "for (const kind of ['error', 'warn']) { const say = console[kind];"
        "console[kind] = (...words) => { complaints.push(words.join(' ')); say(...words); }; }</script>"
    )
    answer = (
        "<script nonce=\"ask\">window.addEventListener('load', () => setTimeout(() => {"
        "const answer = (value) => { const pre = document.createElement('pre'); pre.id = 'the-answer';"
        "pre.textContent = JSON.stringify(value); document.body.append(pre); };"
        f"{script}}}, 500));</script>"
    )
    text = text.replace("script-src ", "script-src 'nonce-ask' ", 1)  # of the page's policy
    text = text.replace("<head>", f"<head>{setup}", 1).replace("</body>", f"{loaded}{answer}</body>", 1)
    copy = page.with_name(f".asked-{page.name}")
    copy.write_text(text, encoding="utf-8")
    try:
        found = re.search(r'<pre id="the-answer"[^>]*>(.*?)</pre>', dom(copy, address, width), re.DOTALL)
    finally:
        copy.unlink()
    if not found:
        raise RuntimeError(f"{page.name} gave no answer in the browser: a script of it may have failed")
    return json.loads(unescape(found.group(1)))
