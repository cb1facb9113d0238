"""The demo's page in a real browser, without a screen; skipped where there is none, or no Gradio."""

from __future__ import annotations

import gc
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.talking.demo import Demo

pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's own, and those of what it imports

ROOT = Path(__file__).parents[3]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = '<img src="http://example.invalid/a.png"> ![b](http://example.invalid/b.png) &amp; <b>c</b>'


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Let go of the loops and sockets that Gradio leaves open here, where no other test is told of them."""
    yield
    gc.collect()


@pytest.fixture
def demo(live: Any, tmp_path: Path) -> Callable[..., Demo]:
    def make(language: str | None = None) -> Demo:
        pytest.importorskip("gradio", reason="Gradio is not installed")
        recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
        return Demo(RunFolder(tmp_path / "<my>_run", recipe), live, language)

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no browser is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield opened
        opened.close()


class Tab:
    """The page in a browser of its own, and what it asked of others than its server."""

    def __init__(self, browser: Any, address: str, locale: str = "en-GB") -> None:
        self.context = browser.new_context(locale=locale, permissions=["microphone"])
        self.context.set_default_timeout(40_000)
        self.page = self.context.new_page()
        self.asked: set[str] = set()
        self.page.on("request", lambda request: self.asked.add(urlsplit(request.url).hostname or ""))
        self.page.goto(address)
        self.page.wait_for_selector("#message textarea")

    def send(self, text: str = "", *files: Path) -> None:
        if files:
            with self.page.expect_file_chooser() as chooser:
                self.page.click("#message [data-testid=upload-button]")
            chooser.value.set_files(list(map(str, files)))
            self.page.wait_for_selector("#message .thumbnail-item")
        if text:
            self.page.fill("#message textarea", text)
        self.page.click("#message button.submit-button:not([disabled])")

    def shows(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#chat').innerText.includes(text)", arg=text
        )

    @property
    def chat(self) -> str:
        return str(self.page.inner_text("#chat"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(8_000) / 9) / 4, 16_000)
    return tmp_path / "clip.wav"


@pytest.mark.slow
def test_a_recording_is_heard_and_answered_and_all_of_it_cleared(
    demo: Any, browser: Any, live: Any, clip: Path
) -> None:
    """Nothing is asked of any other machine, though the answer holds pictures of one."""
    live.outcomes = [["an answer ", HOSTILE], ["two"], ["three"], ["four"]]
    with demo().serving(port=0) as address:
        assert urlsplit(address).hostname == "127.0.0.1"
        tab = Tab(browser, address)
        assert "Model: quickstart (<my>_run)" in tab.page.inner_text("body")
        tab.send("", clip)
        tab.shows(f"an answer {HOSTILE}")
        assert "clip.wav (0.5 s)" in tab.chat
        assert live.said() == [("user", "8000")]
        tab.page.click("#mode label:has-text('Your own')")
        tab.page.click("#templates label:has-text('Summarise')")
        tab.page.wait_for_function("document.querySelector('#instruction textarea').value.includes('Summar')")
        tab.send("", clip)
        tab.shows("two")
        assert live.said()[-1] == ("user", "8000+Summarise what is said in this audio.")
        tab.send("and?")
        tab.shows("three")
        assert live.said()[-2:] == [("assistant", "two"), ("user", "and?")]
        tab.page.click("#clear")
        tab.page.wait_for_function("!document.querySelector('#chat').innerText.includes('three')")
        tab.send("new")
        tab.shows("four")
        assert "clip.wav" not in tab.chat
        assert live.said() == [("user", "new")]
        assert tab.asked <= {"127.0.0.1", ""}


@pytest.mark.slow
def test_two_browsers_share_nothing(demo: Any, browser: Any, live: Any, clip: Path) -> None:
    with demo().serving(port=0) as address:
        ours, theirs = Tab(browser, address), Tab(browser, address, "ja-JP")
        theirs.page.wait_for_selector("text=モデル：quickstart")
        for tab, mode in ((ours, "Your own"), (theirs, "カスタム")):
            tab.page.click(f"#mode label:has-text('{mode}')")
            tab.page.wait_for_selector("#templates")
        ours.send("our secret", clip)
        ours.shows("answer 1")
        theirs.send("theirs")
        theirs.shows("answer 2")
        assert "secret" not in theirs.chat
        assert live.said() == [("user", "theirs")]
        ours.send("and then")
        ours.shows("answer 3")
        assert [turn for _, turn in live.said()] == ["8000+our secret", "answer 1", "and then"]


@pytest.mark.slow
def test_an_answer_streams_and_can_be_stopped(
    demo: Any, browser: Any, live: Any, wait_for: Callable[..., None]
) -> None:
    live.outcomes = [None]
    with demo("ja").serving(port=0) as address:
        tab = Tab(browser, address)
        tab.page.click("#mode label:has-text('カスタム')")
        tab.page.wait_for_selector("#templates")
        for language, template in (("English", "Summarise"), ("日本語", "要約")):  # the mode stays
            tab.page.click(f"#language label:has-text('{language}')")
            tab.page.wait_for_selector(f"#templates label:has-text('{template}')")
        tab.send("slow")
        wait_for(lambda: bool(live.replies))
        live.replies[0].give("so far")
        tab.shows("so far")
        tab.page.click("#message button.stop-button")
        tab.shows("停止しました。")
        wait_for(lambda: live.replies[0].cancelled)


@pytest.mark.slow
def test_the_microphone(demo: Any, browser: Any, live: Any) -> None:
    with demo().serving(port=0) as address:
        tab = Tab(browser, address)
        tab.page.click("#message button.microphone-button")
        tab.page.click("#message button.record-button")
        tab.page.wait_for_timeout(1500)
        tab.page.click("#message button.stop-button")
        tab.page.click("#message button.confirm-button")
        tab.page.wait_for_selector("#message .thumbnail-item")
        tab.send()
        tab.shows("answer 1")
        ((_, heard),) = live.said()
        assert int(heard) > 8_000


def test_uploads_have_a_bound_and_are_gone_at_the_end(
    demo: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "scratch"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    with demo().serving(port=0) as address:
        found = upload(address, clip.read_bytes())
        assert found[0] == 200
        assert str(kept) in found[1]
        assert [path.name for path in kept.rglob("*.wav")] == ["clip.wav"]
        assert upload(address, bytes(26_300_000))[0] == 413
    assert not [path for path in kept.rglob("*") if path.is_file()]


def upload(address: str, content: bytes) -> tuple[int, str]:
    """Upload a file as the page does; return the status and what is answered."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="clip.wav"\r\n\r\n%s\r\n--x--\r\n'
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        body % content,
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    return answered(request)


def answered(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_names_of_others_are_refused(demo: Any) -> None:
    """A page of the web cannot talk to the model by giving its own name the address of this machine."""
    with demo().serving(port=0) as address:
        assert called(address, "localhost")[0] == called(address, "127.0.0.1")[0] == 200
        for name in ("evil.example", ""):
            status, said = called(address, name)
            assert (status, "is called by 127.0.0.1 or localhost" in said) == (403, True)


@pytest.mark.parametrize(
    ("language", "accepted", "said"),
    [
        (None, "ja-JP,ja;q=0.9,en;q=0.8", "127.0.0.1 または localhost という名前で開いてください"),
        (None, "de,en;q=0.5", "called by 127.0.0.1 or localhost"),
        ("ja", "en", "127.0.0.1 または localhost という名前で"),
        ("en", "ja", "called by 127.0.0.1 or localhost"),
    ],
)
def test_who_is_refused_is_told_in_the_language_of_the_page(
    demo: Any, language: str | None, accepted: str, said: str
) -> None:
    with demo(language).serving(port=0) as address:
        status, told = called(address, "evil.example", accepted)
        assert (status, said in told) == (403, True)


def called(address: str, name: str, accepted: str = "en") -> tuple[int, str]:
    """Open the page by another name; return the status and what is answered."""
    headers = {"Host": name, "Accept-Language": accepted}
    return answered(urllib.request.Request(address, headers=headers))


def test_what_cannot_be_served(demo: Any, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = demo()
    with page.serving(port=0) as address:
        port = urlsplit(address).port
        with pytest.raises(RequestError, match=rf"--port {port}: cannot listen there: .*--port 0 takes any"):
            page.serving(port=port).__enter__()
        with pytest.raises(RequestError, match=r"--host 203\.0\.113\.1"):
            page.serving("203.0.113.1", 0).__enter__()


def test_without_gradio(live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'kikimimi[demo]'")):
        Demo(RunFolder(tmp_path, recipe), live)
