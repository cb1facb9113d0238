"""A page on which a trained run can be talked to, by Gradio.

Nothing leaves the machine: no analytics, no fonts or scripts of others, no history in the browser, and what a
model writes is shown as text, so that it loads nothing either.
"""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kikimimi.console.hosts import may_call
from kikimimi.contracts.generation import Generation
from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.files.writing import scratch_folder
from kikimimi.inference.live import LiveEngine
from kikimimi.run.folder import RunFolder
from kikimimi.talking.dialogue import Request
from kikimimi.talking.interface import LANGUAGES, preferred, words_of
from kikimimi.talking.modes import TALKING, request_of
from kikimimi.talking.recording import Ears
from kikimimi.talking.session import Session, ShownTurns, Wish

UPLOAD_LIMIT = "25mb"
"""Largest file that is taken."""
KEPT_SECONDS = 3600
"""How long an uploaded file is kept [s]; all are removed at the end."""
_SESSIONS = 100  # browsers that are remembered at a time
_AT_ONCE = 16  # answers that are made together; others wait
_TASKS = {"instruction": "spoken_instruction", "transcription": "asr", "description": "caption"}
_FIRST = "transcription"  # the mode that is chosen at first
_OPTIONS = ("options", "system", "max_new_tokens", "sampling", "temperature", "top_p")


class Demo:
    """The page.

    Args:
        run: The run.
        live: The engine, with the run's model.
        language: Language of the page, ``en`` or ``ja``; None is the browser's.

    Raises:
        MissingExtraError: Gradio is not installed.
    """

    def __init__(self, run: RunFolder, live: LiveEngine, language: str | None = None) -> None:
        self.run, self.live, self.language = run, live, language
        self.ears = Ears(live.engine.sample_rate, live.engine.max_seconds)
        self._gradio = load_gradio()
        self._requests = {
            (mode, own): request_of(run, task, own) for mode, task in _TASKS.items() for own in LANGUAGES
        }

    @contextmanager
    def serving(self, host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
        """Serve the page until the block ends.

        Args:
            host: Address that it listens at.
            port: Port; 0 takes any that is free.

        Yields:
            The page's address.

        Raises:
            RequestError: The port is taken, or the address is not this machine's.
        """
        port = _free_port(host, port)
        with scratch_folder() as folder:
            os.environ["GRADIO_TEMP_DIR"] = str(folder)
            page = self.page()
            _, address, _ = page.queue(default_concurrency_limit=_AT_ONCE, max_size=_SESSIONS).launch(
                server_name=host,
                app_kwargs={"middleware": [(_Called, (host, self.language), {})]},
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                inbrowser=False,
                max_file_size=UPLOAD_LIMIT,
                state_session_capacity=_SESSIONS,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                pwa=False,
                ssr_mode=False,
                theme=self._gradio.themes.Default(
                    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
            )
            try:
                yield address
            finally:
                page.close(verbose=False)

    def page(self) -> Any:
        """Return the page as Gradio's blocks."""
        gradio = self._gradio
        first = self.language or LANGUAGES[0]
        said = self._said(first)
        with gradio.Blocks(
            title=f"kikimimi: {self.run.recipe.name}",
            analytics_enabled=False,
            fill_height=True,
            delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
        ) as page:
            session = gradio.State(Session(first))
            with gradio.Row(equal_height=True):
                with gradio.Column(min_width=240):
                    name = gradio.Markdown(**said["name"])
                language = gradio.Radio(
                    [(words_of(own)["language"], own) for own in LANGUAGES],
                    value=first,
                    show_label=False,
                    container=False,
                    elem_id="language",
                    min_width=220,
                    scale=0,
                )
            with gradio.Row():
                with gradio.Column(scale=3, min_width=320):
                    chat = gradio.Chatbot(
                        **said["chat"],
                        render_markdown=False,
                        allow_tags=False,
                        buttons=["copy"],
                        feedback_options=None,
                        height="62vh",
                        elem_id="chat",
                    )
                    message = gradio.MultimodalTextbox(
                        **said["message"],
                        sources=["upload", "microphone"],
                        file_types=["audio"],
                        file_count="multiple",
                        show_label=False,
                        elem_id="message",
                    )
                    clear = gradio.Button(**said["clear"], elem_id="clear", size="sm")
                with gradio.Column(scale=2, min_width=300):
                    mode = gradio.Radio(**said["mode"], elem_id="mode")
                    instruction = gradio.Textbox(**said["instruction"], lines=2, elem_id="instruction")
                    templates = gradio.Radio(**said["templates"], elem_id="templates")
                    with gradio.Accordion(**said["options"], open=False, elem_id="options") as options:
                        system = gradio.Textbox(**said["system"], lines=2)
                        max_new_tokens = gradio.Slider(
                            16, 2048, value=TALKING.max_new_tokens, step=16, **said["max_new_tokens"]
                        )
                        sampling = gradio.Checkbox(value=False, **said["sampling"])
                        temperature = gradio.Slider(0.05, 2, value=0.7, step=0.05, **said["temperature"])
                        top_p = gradio.Slider(0.05, 1, value=1, step=0.05, **said["top_p"])
            labels = [name, chat, message, clear, mode, instruction, templates, options, system]
            labels += [max_new_tokens, sampling, temperature, top_p]

            def words_on_page(own: str, chosen: str, held: Session) -> list[Any]:
                held.language = own
                return [gradio.update(**said) for said in self._said(own, chosen).values()]

            def opened(held: Session, request: Any) -> list[Any]:
                own = self.language or preferred(request.headers.get("accept-language", ""))
                if own == first:  # as it is; somebody may have chosen something already
                    return [gradio.skip() for _ in (language, *labels)]
                return [own, *words_on_page(own, _FIRST, held)]

            opened.__annotations__["request"] = gradio.Request  # by which Gradio knows what to give

            def mode_chosen(chosen: str, held: Session) -> list[Any]:
                known = self._request(chosen, held.language)
                return [known.words, gradio.update(visible=chosen == "custom", value=None)]

            def send(
                given: dict[str, Any],
                chosen: str,
                wanted: str,
                prompt: str,
                tokens: float,
                draws: bool,
                heat: float,
                nucleus: float,
                held: Session,
            ) -> Iterator[tuple[ShownTurns | Any, Any]]:
                generation = Generation(max_new_tokens=int(tokens))
                if draws:
                    generation = replace(generation, temperature=heat, top_p=nucleus)
                known = self._request(chosen, held.language)
                wish = Wish(
                    chosen, known if wanted == known.words else Request(after=wanted), prompt, generation
                )
                working = gradio.update(value=None, submit_btn=False, stop_btn=True)
                for shown in held.send(self.live, self.ears, given["text"], given["files"], wish):
                    yield _as_text(shown), working
                    working = gradio.skip()
                yield gradio.skip(), gradio.update(submit_btn=True, stop_btn=False)

            def forget(held: Session) -> tuple[ShownTurns, Any]:
                held.clear()
                return [], gradio.update(submit_btn=True, stop_btn=False)

            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
            page.load(opened, [session], [language, *labels], **quiet)
            language.input(words_on_page, [language, mode, session], labels, **quiet)
            mode.input(mode_chosen, [mode, session], [instruction, templates], **quiet)
            templates.input(lambda text: text, [templates], [instruction], **quiet)
            wishes = [mode, instruction, system, max_new_tokens, sampling, temperature, top_p]
            message.submit(send, [message, *wishes, session], [chat, message], **quiet)
            message.stop(Session.stop, [session], None, queue=False, **quiet)
            gradio.on([clear.click, chat.clear], forget, [session], [chat, message], queue=False, **quiet)
        return page

    def _said(self, own: str, chosen: str = _FIRST) -> dict[str, dict[str, Any]]:
        """Return what each part of the page says in a language and a mode, in the order of the parts."""
        words = words_of(own)
        return {
            "name": {"value": f"## kikimimi\n{words['model'].format(name=_escaped(self._name))}"},
            "chat": {"label": words["chat"], "placeholder": words["empty"]},
            "message": {"placeholder": words["message"]},
            "clear": {"value": words["clear"]},
            "mode": {
                "label": words["mode"],
                "info": words["mode_hint"],
                "choices": [(label, value) for value, label in words["modes"].items()],
                "value": chosen,
            },
            "instruction": {
                "label": words["instruction"],
                "info": words["instruction_hint"],
                "placeholder": words["no_instruction"],
                "value": self._request(chosen, own).words,
            },
            "templates": {
                "label": words["templates"],
                "choices": [(label, text) for label, text in words["template_list"]],
                "value": None,
                "visible": chosen == "custom",
            },
            **{part: {"label": words[part]} for part in _OPTIONS},
        }

    def _request(self, mode: str, own: str) -> Request:
        return self._requests.get((mode, own), Request())

    @property
    def _name(self) -> str:
        name, folder = self.run.recipe.name, self.run.path.name
        return name if name == folder else f"{name} ({folder})"


class _Called:
    """An ASGI application before another: refuses whoever calls the page by a name of others.

    Args:
        app: The other one.
        host: Where the page is.
        language: Language of the page; None is the browser's.
    """

    def __init__(self, app: Any, host: str, language: str | None) -> None:
        self._app, self._host, self._language = app, host, language

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request, or what is no request."""
        names, accepted = (
            [value.decode("latin-1") for key, value in scope.get("headers", ()) if key == wanted]
            for wanted in (b"host", b"accept-language")
        )
        if scope["type"] == "lifespan" or (len(names) == 1 and may_call(names[0], self._host)):
            await self._app(scope, receive, send)
            return
        words = words_of(self._language or preferred(",".join(accepted)))
        said = f"{words['called'].format(host=self._host)}\n"
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": said.encode()})


def _as_text(shown: ShownTurns) -> ShownTurns:
    """Return messages in which tags are letters: Gradio shows HTML, pictures of other places among it."""
    return [{**message, "content": html.escape(message["content"], quote=False)} for message in shown]


def _escaped(text: str) -> str:
    """Return a text in which Markdown and HTML see nothing but letters."""
    return "".join(c if c.isalnum() or c in " ()" else f"&#{ord(c)};" for c in text)


def _free_port(host: str, port: int) -> int:
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise RequestError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}. "
            "--port 0 takes any free port"
        ) from error


def load_gradio() -> Any:
    """Return the package Gradio, which is told to report nothing.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("the demo", "gradio", "demo") from error
    return gradio
