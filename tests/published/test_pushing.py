"""``--push``, against a server that speaks the Hub's protocol as far as uploads go."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants
from tests.published.models import TINY
from typer.testing import CliRunner

from kikimimi import RequestError
from kikimimi.cli import app
from kikimimi.errors import WriteError
from kikimimi.published.importing import import_model
from kikimimi.published.pushing import check_push, push_export
from kikimimi.run.folder import RunFolder

TOKEN = "hf_secretsecretsecret"


class Hub(ThreadingHTTPServer):
    """A Hub: `repos` are the files of each repository, `status` what it answers to whoever writes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.status = 200
        self.tokens: set[str | None] = set()


class Asked(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        _, api, models, *rest = self.path.partition("?")[0].split("/")
        name = "/".join(rest[:2])
        if (api, models) != ("api", "models") or name not in self.server.repos:
            return self.answer(404, {"error": "no such repository"})
        files = [{"rfilename": file} for file in self.server.repos[name]]
        return self.answer(
            200, {"id": name, "private": self.server.private[name], "siblings": files, "sha": "0" * 40}
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status != 200:
            return self.answer(self.server.status, {"error": "no"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repos:
                return self.answer(409, {"error": "it is there", "url": self.path})
            self.server.repos[name], self.server.private[name] = (
                {},
                bool(asked.get("private") or asked.get("visibility") == "private"),
            )
            return self.answer(200, {"url": f"{constants.ENDPOINT}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert "/commit/" in self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(
            200,
            {"commitUrl": f"{constants.ENDPOINT}/{name}/commit/1", "commitOid": "1" * 40, "success": True},
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "published").mkdir()
    TINY["qwen2_audio"].write(folder / "published")
    (folder / "published" / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n")
    return import_model(str(folder / "published"), folder / "run")


def pushed(run: RunFolder, out: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["export", str(run.path), "--out", str(out), *options])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_uploaded_once_it_is_whole(run: RunFolder, tmp_path: Path, hub: Hub) -> None:
    made = pushed(run, tmp_path / "out", "--push", "org/model", "--private", "--license-accepted")
    assert made.exit_code == 0, made.output
    assert hub.private == {"org/model": True}
    assert hub.repos["org/model"] == files_of(tmp_path / "out")
    assert f"{constants.ENDPOINT}/org/model" in made.output
    card = hub.repos["org/model"]["README.md"].decode()
    assert "from_pretrained('org/model')" in card
    assert "`--license-accepted`" in card
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in made.output
    assert not any(TOKEN.encode() in content for content in files_of(tmp_path / "out").values())


def test_a_later_export_takes_the_place_of_an_earlier_one(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "lock.json").write_text("{}")
    hub.repos["org/model"], hub.private["org/model"] = {"lock.json": b"old", ".gitattributes": b""}, False
    push_export(tmp_path, "org/model", private=False)
    assert hub.repos["org/model"]["lock.json"] == b"{}"


@pytest.mark.parametrize(
    "held", [{"model.bin": b""}, {"lock.json": b"", "model-00001-of-00002.safetensors": b""}]
)
def test_a_repository_with_other_files_is_left_alone(
    tmp_path: Path, hub: Hub, held: dict[str, bytes]
) -> None:
    hub.repos["org/model"], hub.private["org/model"] = dict(held), False
    (tmp_path / "lock.json").write_text("{}")
    with pytest.raises(RequestError, match=r"org/model: is there and holds other files: .*model"):
        push_export(tmp_path, "org/model", private=False)
    assert hub.repos["org/model"] == held


def test_other_files_are_told_before_the_work(hub: Hub) -> None:
    hub.repos["org/model"], hub.private["org/model"] = {"model.bin": b""}, False
    with pytest.raises(RequestError, match=r"holds other files: model\.bin\. Name another repository"):
        check_push("org/model", private=False)


def test_a_public_repository_is_no_private_one(hub: Hub) -> None:
    hub.repos["org/model"], hub.private["org/model"] = {}, False
    with pytest.raises(RequestError, match="is there and public"):
        check_push("org/model", private=True)


@pytest.mark.parametrize(("name", "said"), [("model", "has to be ORG/NAME"), ("a//b c", "--push")])
def test_a_name_has_to_be_one_of_the_hub(name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_push(name, private=False)


def test_without_a_token_nothing_is_begun(run: RunFolder, tmp_path: Path, hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    made = pushed(run, tmp_path / "out", "--push", "org/model", "--license-accepted")
    assert "there is no token of the Hub: log in with 'hf auth login'" in str(made.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the Hub does not know the token"),
        (403, "no right to write to org/model"),
        (400, r"refuses \(400\)"),
    ],
)
def test_an_export_that_the_hub_refuses_stays(
    run: RunFolder, tmp_path: Path, hub: Hub, status: int, said: str
) -> None:
    hub.status = status
    made = pushed(run, tmp_path / "out", "--push", "org/model", "--private", "--license-accepted")
    assert made.exit_code == 1
    assert isinstance(made.exception, WriteError)
    with pytest.raises(WriteError, match=said):
        raise made.exception
    assert f"hf upload org/model {tmp_path / 'out'} --private" in str(made.exception)
    assert TOKEN not in str(made.exception)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_hub_that_is_gone_is_told(tmp_path: Path, hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WriteError, match=r"the Hub cannot be reached: .*; nothing was written"):
        check_push("org/model", private=False)
    with pytest.raises(WriteError, match=rf"cannot be reached: .*stays in {tmp_path}.* hf upload org/model"):
        push_export(tmp_path, "org/model", private=False)


def test_private_is_read_with_push_alone(run: RunFolder, tmp_path: Path) -> None:
    assert "--private is read with --push" in str(pushed(run, tmp_path / "out", "--private").exception)
