"""A real JupyterLab in a real browser: opening a notebook, running a cell and saving it makes nothing stale."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_for

from xaikit.companion import run
from xaikit.companion.state import State, status
from xaikit.storage import sources
from xaikit.storage.paths import NOTEBOOKS

NAME, BARE = "01_small", "02_bare"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # ms: a busy machine draws slowly


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def ran(checkout: Path) -> Path:
    """Two notebooks, run, with their pages, committed: one with the header of those that ship, one with none."""
    header = next(NOTEBOOKS.glob("[0-9]*.py")).read_text(encoding="utf-8").partition("\n# %%")[0]
    text = (checkout / "notebooks" / f"{NAME}.py").read_text(encoding="utf-8")
    (checkout / "notebooks" / f"{NAME}.py").write_text(f"{header}\n{text}", encoding="utf-8")
    (checkout / "notebooks" / f"{BARE}.py").write_text(text.replace(f'"{NAME}"', f'"{BARE}"'), encoding="utf-8")
    run.write_pages(run.jobs([], "mini", root=checkout))
    (checkout / ".gitignore").write_text("/build/\n.ipynb_checkpoints/\n__pycache__/\n")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "as it was run")
    return checkout


@pytest.fixture
def lab(ran: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab in that checkout, which saves every second."""
    settings = tmp_path / "settings" / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"autosaveInterval": 1}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    folders = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    variables = {**os.environ, **{name: str(tmp_path / name) for name in folders}, "PYTHONPATH": str(ran)}
    variables["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=0"]
    command += [f"--port={address.rpartition(':')[2]}", "--IdentityProvider.token=", f"--ServerApp.root_dir={ran}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ran, env=variables, stdout=log, stderr=log)

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"{address}/api", timeout=5).status == 200
        except OSError:
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            return False

    try:
        wait_for(answers)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_a_notebook_that_was_opened_run_and_saved_in_jupyterlab_is_as_fresh_as_before(
    ran: Path, lab: str, tmp_path: Path
) -> None:
    pages = {name: ran / "notebooks" / f"{name}.ipynb" for name in (NAME, BARE)}
    before = {name: sources.cells(page.with_suffix(".py"), ran) for name, page in pages.items()}
    later = pages[NAME].stat().st_mtime + 60
    os.utime(pages[NAME], (later, later))  # a page may be newer than its script, as git writes them in any order
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, page in pages.items():
            content = page.read_bytes()
            tab = browser.new_page(viewport={"width": 1200, "height": 900})
            tab.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb")
            tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE)
            code = tab.locator(".jp-NotebookPanel:visible .jp-CodeCell")
            for cell in (code.first, code.nth(2)):  # the last one too: JupyterLab then adds an empty cell below
                cell.locator(".cm-content").click(timeout=PATIENCE)
                tab.keyboard.press("Shift+Enter")
            tab.locator(".jp-NotebookPanel:visible .jp-OutputArea-output", has_text="NameError").wait_for(
                timeout=PATIENCE
            )
            tab.screenshot(path=tmp_path / f"{name}.png")
            wait_for(lambda page=page, content=content: b"NameError" in page.read_bytes() != content)
            tab.close()
        browser.close()
    changed = git(ran, "status", "--short").split("\n")
    # The pages show what was run. A script without a header gets one; one that has it stays as it is, to the last byte,
    # but for the empty cell.
    assert {line[3:] for line in changed if line} <= {f"notebooks/{file}" for file in (
        f"{NAME}.ipynb", f"{NAME}.py", f"{BARE}.ipynb", f"{BARE}.py")}  # fmt: skip
    script = ran / "notebooks" / f"{NAME}.py"
    assert script.read_text(encoding="utf-8").rstrip().removesuffix("# %%").rstrip() == (
        git(ran, "show", f"HEAD:notebooks/{NAME}.py").rstrip()
    )
    for job in run.jobs([], "mini", root=ran):
        assert sources.cells(job.script, ran) == before[job.name]
        assert status(job).state == State.FRESH
        assert not run.page_is_older(job)
    runs = (ran / "build" / "runs.txt").read_text()
    assert run.run_notebooks(run.jobs([], "mini", root=ran)) == []
    assert (ran / "build" / "runs.txt").read_text() == runs


playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
