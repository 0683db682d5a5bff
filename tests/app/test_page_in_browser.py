"""The page in a real browser: Debian's Chromium, driven by Playwright.

Skipped without a browser (`make browser` installs it). Screenshots of the steps are kept in build/screenshots.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2v.data.frames import open_frames
from i2v.data.rle import rle_to_mask
from i2v.segment import main as segment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The bunny's face in frame 24, and grass beside it.
FACE, GRASS = (265, 90), (560, 320)

sync_api = pytest.importorskip("playwright.sync_api", reason='needs Playwright: pip install -e ".[dev]"')
if CHROMIUM is None:
    pytest.skip("there is no Chromium: make browser installs it", allow_module_level=True)


class Server:
    """A server of the page in a process of its own.

    Args:
        videos (Path): folder of the videos.
        sessions (Path): folder of the sessions.
        port (int): port; 0 for a free one.
    """

    def __init__(self, videos: Path, sessions: Path, port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "i2v.app",
            str(videos),
            "--no-browser",
            "--sessions",
            str(sessions),
            "--port",
            str(port),
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                self.address, self.port = found[0], int(found[1])
                return
        raise AssertionError("".join(lines))

    def stop(self, kill: bool = False) -> None:
        """End the server."""
        self._process.kill() if kill else self._process.terminate()
        self._process.wait(60)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bunny."""
    folder = tmp_path_factory.mktemp("videos")
    shutil.copy(ROOT / "assets" / "bunny.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def server(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(videos, tmp_path_factory.mktemp("sessions"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """The page, and what a person does on it.

    Args:
        browser (Browser): Playwright's browser.
        server (Server): the server.
        name (str): name of the screenshots.
        options: of the browser's context, such as its viewport.
    """

    def __init__(self, browser: Any, server: Server, name: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "accept_downloads": True} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._name = name
        self._steps = 0
        self.page.goto(server.address)

    def close(self) -> None:
        """Close it; scripts must not have failed."""
        self.context.close()
        assert self.errors == []

    def screenshot(self, what: str) -> None:
        """Keep what the page shows."""
        self._steps += 1
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self._name}-{self._steps:02d}-{what}.png")

    def open_bunny(self) -> None:
        """Start a new session."""
        self.page.get_by_test_id("file-list").get_by_text("bunny.mp4").click()
        self.page.wait_for_selector("#existing[open], [data-screen=editor]")
        if self.page.locator("#existing[open]").count():
            self.page.get_by_test_id("existing-new").click()
        self.page.wait_for_selector("[data-screen=editor] #canvas[data-frame]")

    def go_to(self, frame: int) -> None:
        """Show a frame, by keyboard."""
        self.page.locator("#canvas").focus()
        self.page.keyboard.press("g")
        self.page.keyboard.type(str(frame))
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(re.compile(rf"frame={frame}$"))
        self.page.locator("#canvas").focus()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the video is on the screen, while the whole frame is shown."""
        box = self.page.locator("#canvas").bounding_box()
        scale = min(box["width"] / 640, box["height"] / 360)
        left, top = (box["width"] - 640 * scale) / 2, (box["height"] - 360 * scale) / 2
        return box["x"] + left + x * scale, box["y"] + top + y * scale

    def shown(self) -> np.ndarray:
        """The frame as the canvas shows it, while it shows the whole frame: (360, 640, 3) int RGB."""
        box = self.page.locator("#canvas").bounding_box()
        (left, top), (right, bottom) = self.at(0, 0), self.at(640, 360)
        with Image.open(io.BytesIO(self.page.locator("#canvas").screenshot())) as image:
            place = (left - box["x"], top - box["y"], right - box["x"], bottom - box["y"])
            return np.asarray(image.convert("RGB").resize((640, 360), box=place), int)

    def fit(self) -> None:
        """Show the whole frame."""
        self.page.locator("#fit").click()

    def click(self, x: float, y: float, **options: Any) -> None:
        """Click a pixel of the video, and wait for the answer."""
        with self.page.expect_response(re.compile("/prompts/")) as answer:
            self.page.mouse.click(*self.at(x, y), **options)
        assert answer.value.ok, answer.value.text()

    def drag(self, *places: tuple[float, float]) -> None:
        """Press at the first place, move over the others, release, and wait for the answer."""
        with self.page.expect_response(re.compile("/prompts/")) as answer:
            self.page.mouse.move(*self.at(*places[0]))
            self.page.mouse.down()
            for place in places[1:]:
                self.page.mouse.move(*self.at(*place), steps=5)
            self.page.mouse.up()
        assert answer.value.ok, answer.value.text()

    def api(self, path: str) -> Any:
        """What the server says of this session."""
        session = re.search(r"session=(\w+)", self.page.url)
        assert session is not None
        return self.page.evaluate("path => fetch(path).then(answer => answer.json())", f"/api/sessions/{session[1]}{path}")

    def wait_until(self, condition: str) -> None:
        """Wait for a condition in JavaScript. Playwright's own way evaluates text, which the page's policy forbids."""
        for _ in range(600):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never true: {condition}")

    def masked_frames(self) -> list[int]:
        """The frames with masks of the first object."""
        area = self.api("/timeline")["objects"]["1"]["area"]
        return [frame for frame, share in enumerate(area) if share is not None]

    def track(self, button: str) -> None:
        """Press one of the buttons that track."""
        with self.page.expect_response(re.compile("/track$")) as answer:
            self.page.locator(button).click()
        assert answer.value.ok, answer.value.text()

    def wait_for_job(self) -> None:
        """Wait until tracking or an export has ended."""
        for _ in range(600):
            if self.api("")["job"] is None:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the job did not end")

    def download(self, *formats: str) -> Path:
        """Export, and return the downloaded file."""
        self.page.locator("#export-open").click()
        for box in self.page.locator("#export-formats input").all():
            box.set_checked(box.get_attribute("value") in formats)
        before = len(self.api("")["exports"])
        self.page.locator("#export-start").click()
        self.wait_until(f"document.querySelectorAll('[data-testid=export-link]').length > {before}")
        self.screenshot("export")
        with self.page.expect_download() as download:
            self.page.get_by_test_id("export-link").first.click()
        self.page.keyboard.press("Escape")
        return Path(download.value.path())


def test_click_track_stop_correct_export_reload(browser: Any, server: Server, videos: Path, tmp_path: Path) -> None:
    page = Page(browser, server, "track")
    page.screenshot("start")
    page.open_bunny()
    page.go_to(24)
    page.screenshot("frame")
    before = page.shown()
    page.click(*FACE)
    page.page.wait_for_timeout(300)
    mask = rle_to_mask(page.api("/masks/24")["objects"]["1"]["rle"]) > 0
    y, x = np.indices(mask.shape)
    far = np.hypot(x - FACE[0], y - FACE[1]) > 30  # the click itself is drawn, too
    change = np.abs(page.shown() - before).mean(axis=2)
    assert np.median(change[mask & far]) > 20 and np.median(change[~mask & far]) == 0
    page.screenshot("click")

    page.track("#track-forward")
    page.wait_until("document.querySelector('#frame-number').value >= 28")  # masks stream in, and are followed
    page.screenshot("tracking")
    page.page.locator("#stop").click()
    page.wait_for_job()
    tracked = page.masked_frames()
    assert tracked[0] == 24 and 28 <= tracked[-1] < 47 and tracked == list(range(24, tracked[-1] + 1))

    page.go_to(27)
    page.click(*GRASS, button="right")
    assert page.api("/timeline")["objects"]["1"]["outdated"] == list(range(28, tracked[-1] + 1))
    page.screenshot("corrected")
    page.page.locator("#track-frames").fill("5")
    page.track("#track-forward")
    page.wait_for_job()
    assert not set(page.api("/timeline")["objects"]["1"]["outdated"]) & set(range(28, 33))
    page.page.locator("#track-frames").fill("")

    archive = page.download("masks", "prompts")
    page.screenshot("exported")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    masks = {frame: page.api(f"/masks/{frame}") for frame in (24, 27, 30)}
    page.page.reload()
    page.page.wait_for_selector("[data-screen=editor]")
    assert {frame: page.api(f"/masks/{frame}") for frame in masks} == masks
    page.screenshot("reloaded")
    page.close()

    # The command line repeats the session with a predictor of its own.
    arguments = [str(videos / "bunny.mp4"), "--prompts", str(tmp_path / "bunny" / "prompts.json"), "--device", "cpu"]
    assert segment([*arguments, "--output", str(tmp_path / "replay")]) == 0
    own, replayed = tmp_path / "bunny" / "masks", tmp_path / "replay" / "masks"
    names = sorted(path.name for path in own.iterdir())
    assert names == sorted(path.name for path in replayed.iterdir()) and "00027.png" in names
    for name in names:
        with Image.open(own / name) as image, Image.open(replayed / name) as other:
            assert np.array_equal(np.asarray(image), np.asarray(other)), name


def test_box_negative_click_brush_undo(browser: Any, server: Server) -> None:
    page = Page(browser, server, "prompts")
    page.open_bunny()
    page.go_to(24)
    page.drag((190, 30), (350, 330))
    box = page.api("/masks/24")
    assert page.api("")["objects"][0]["prompts"][0]["box"] == pytest.approx([190, 30, 350, 330], abs=2)
    page.screenshot("box")
    page.click(*GRASS, button="right")
    assert [label for *_, label in page.api("")["objects"][0]["prompts"][0]["points"]] == [0]
    page.page.locator("#undo").click()
    page.wait_until("!document.querySelector('#redo').disabled")
    assert page.api("/masks/24") == box

    page.page.locator("#add-object").click()
    page.page.locator("#tool-brush").click()
    page.drag((500, 100), (560, 100), (560, 140))
    painted = page.api("/masks/24")["objects"]["2"]
    assert page.api("")["objects"][1]["prompts"][0]["has_mask"] and painted["area"] > 0
    page.page.locator("#tool-eraser").click()
    page.drag((500, 100), (530, 100))
    assert page.api("/masks/24")["objects"]["2"]["area"] < painted["area"]
    page.screenshot("brush")
    for _ in range(3):
        page.page.keyboard.press("Control+z")
        page.page.wait_for_timeout(400)
    assert page.api("/masks/24")["objects"].keys() <= {"1"}
    page.page.keyboard.press("Control+Shift+z")
    page.page.wait_for_timeout(400)
    assert "1" in page.api("/masks/24")["objects"]
    page.close()


def test_keyboard_only(browser: Any, server: Server) -> None:
    page = Page(browser, server, "keyboard")
    keys = page.page.keyboard
    page.page.wait_for_selector("[data-testid=file-list] button, [data-testid=file-list] a")
    page.page.locator("[data-testid=file-list]").get_by_role("button").first.focus()
    keys.press("Enter")
    page.page.wait_for_selector("#existing[open], [data-screen=editor]")
    if page.page.locator("#existing[open]").count():
        page.page.get_by_test_id("existing-new").focus()
        keys.press("Enter")
    page.page.wait_for_selector("[data-screen=editor]")
    keys.press("ArrowRight")
    page.page.wait_for_url(re.compile("frame=1$"))
    keys.press("p")
    for _ in range(3):
        keys.press("ArrowLeft")
    with page.page.expect_response(re.compile("/prompts/")):
        keys.press("Enter")
    with page.page.expect_response(re.compile("/prompts/")):
        keys.press("Shift+Enter")
    assert [label for *_, label in page.api("")["objects"][0]["prompts"][0]["points"]] == [1, 0]
    page.screenshot("pointing")
    keys.press("Escape")
    keys.press("t")
    page.page.wait_for_selector("#job:not([hidden])")
    keys.press("Escape")
    page.wait_for_job()
    keys.press("Control+z")
    page.wait_until("!document.querySelector('#redo').disabled")
    assert len(page.api("")["objects"][0]["prompts"][0]["points"]) == 1
    keys.press("?")
    assert page.page.locator("#help[open]").count() == 1
    page.screenshot("help")
    keys.press("Escape")
    keys.press("Shift+E")
    assert page.page.locator("#export[open]").count() == 1
    page.close()


@pytest.mark.parametrize("width", [320, 390])
def test_narrow_screen(browser: Any, server: Server, width: int) -> None:
    page = Page(browser, server, f"phone{width}", viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True)
    page.open_bunny()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    with page.page.expect_response(re.compile("/prompts/")) as answer:
        page.page.touchscreen.tap(*page.at(*FACE))
    assert answer.value.ok
    page.screenshot("tap")
    for name in ("#track-forward", "#undo", "#export-open", "#play"):
        box = page.page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
    page.close()


def test_second_tab_and_a_server_that_is_killed(browser: Any, videos: Path, tmp_path: Path) -> None:
    server = Server(videos, tmp_path / "sessions")
    page = Page(browser, server, "restart")
    page.open_bunny()
    page.go_to(24)
    tab = page.context.new_page()
    tab.goto(page.page.url)
    tab.wait_for_selector("[data-screen=editor]")
    page.click(*FACE)
    tab.locator("#object-list li").first.wait_for()
    page.page.locator("#track-frames").fill("3")
    page.track("#track-forward")
    page.wait_for_job()
    before = page.api("/masks/26")

    server.stop(kill=True)
    page.page.get_by_test_id("connection").wait_for(state="visible")
    page.screenshot("lost")
    server = Server(videos, tmp_path / "sessions", server.port)
    page.page.get_by_test_id("connection").wait_for(state="hidden")
    assert page.api("/masks/26") == before
    page.track("#track-forward")
    page.wait_for_job()
    assert page.masked_frames() == list(range(24, 31))
    page.screenshot("continued")
    page.close()
    server.stop()


def test_upload(browser: Any, server: Server, videos: Path, tmp_path: Path) -> None:
    page = Page(browser, server, "upload")
    (tmp_path / "notes.txt").write_text("no video")
    page.page.get_by_test_id("upload-files").set_input_files(tmp_path / "notes.txt")
    page.page.get_by_role("alert").get_by_text("upload one video").first.wait_for()
    frames = open_frames(videos / "bunny.mp4")
    images = []
    for index in range(3):
        images.append(tmp_path / f"{index}.png")
        Image.fromarray(frames[index]).save(images[-1])
    page.page.get_by_test_id("upload-files").set_input_files(images)
    page.page.wait_for_selector("[data-screen=editor]")
    assert page.api("")["num_frames"] == 3 and page.api("")["name"] == "3 images"
    page.screenshot("opened")
    page.close()


def test_frames_appear_while_a_file_is_opened(browser: Any, server: Server) -> None:
    page = Page(browser, server, "preview")
    opening: list[Any] = []
    page.page.route(lambda address: address.endswith("/api/sessions"), lambda route: opening.append(route))
    page.page.get_by_test_id("file-list").get_by_text("bunny.mp4").click()
    page.page.locator("#preview").wait_for(state="visible")
    page.screenshot("opening")
    for route in opening:
        route.abort()
    page.page.locator("#preview").wait_for(state="hidden")
    page.close()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there: make browser installs it")
def test_accessibility(browser: Any, server: Server) -> None:
    page = Page(browser, server, "axe", bypass_csp=True)  # for axe's own script

    def check(where: str) -> None:
        page.page.add_script_tag(path=str(AXE))
        violations = page.page.evaluate("axe.run().then(results => results.violations)")
        serious = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
        assert not serious, (where, [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in serious])

    page.page.get_by_test_id("file-list").get_by_text("bunny.mp4").wait_for()
    check("start")
    page.open_bunny()
    page.go_to(24)
    page.click(*FACE)
    check("editor")
    page.page.keyboard.press("?")
    check("help")
    page.page.keyboard.press("Escape")
    page.page.locator("#export-open").click()
    check("export")
    page.close()


def test_nothing_comes_from_elsewhere(browser: Any, server: Server) -> None:
    page = Page(browser, server, "offline")
    requests: list[str] = []
    page.page.on("request", lambda request: requests.append(request.url))
    page.page.reload()
    page.open_bunny()
    page.click(*FACE)
    assert requests and all(url.startswith((server.address, "blob:", "data:")) for url in requests)
    page.close()
