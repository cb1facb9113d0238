from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kikimimi.weights.tensors import (
    check_stage,
    check_stored,
    find_set,
    piece_name,
    stored_tensors,
    write_tensors,
)

TENSORS = {
    "byte": torch.arange(3, dtype=torch.uint8),
    "half": torch.randn(2, 3, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(7, dtype=torch.int64),
    "turned": torch.randn(5, 2).T,
    "yes": torch.tensor([True, False]),
}


def test_files_are_safetensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"said": "so"})
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].equal(tensor)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"said": "so"}
    backwards = dict(reversed(TENSORS.items()))
    write_tensors(tmp_path / "b.safetensors", backwards, {"said": "so"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for name, stored in stored_tensors(tmp_path / "a.safetensors").items():
        assert stored.shape == TENSORS[name].shape
        assert stored.whole().equal(TENSORS[name])


def write_pieces(folder: Path, tensor: Tensor, ends: list[int], stem: str = "weights") -> Path:
    """Write rows up to each end as the piece of a rank; the first holds another tensor, whole, too."""
    start = 0
    for rank, end in enumerate(ends):
        held = {"table": tensor[start:end], **({"whole": torch.ones(2)} if rank == 0 else {})}
        rows = {"rows": f'{{"table": [{start}, {len(tensor)}]}}'}
        write_tensors(folder / piece_name(stem, rank, len(ends)), held, rows)
        start = end
    return folder / piece_name(stem, 0, len(ends))


@pytest.mark.parametrize("ends", [[7], [4, 7], [3, 6, 7, 7]])
def test_rows_are_read_from_the_pieces_that_hold_them(tmp_path: Path, ends: list[int]) -> None:
    tensor = torch.randn(7, 3)
    stored = stored_tensors(write_pieces(tmp_path, tensor, ends))
    assert stored.keys() == stored_tensors(find_set(tmp_path, "weights")).keys()
    assert stored["whole"].whole().equal(torch.ones(2))
    table = stored["table"]
    assert table.shape == tensor.shape
    assert table.whole().equal(tensor)
    for start, stop in ((0, 7), (2, 5), (6, 7), (7, 7)):
        assert table.rows(start, stop).equal(tensor[start:stop])


def test_missing_pieces_and_rows_are_named(tmp_path: Path) -> None:
    first = write_pieces(tmp_path, torch.randn(7, 3), [4, 6])
    with pytest.raises(ValueError, match=r"row 6 of table is in none of the files of weights\.rank0-of-2"):
        stored_tensors(first)
    (tmp_path / piece_name("weights", 1, 2)).unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.rank1-of-2\.safetensors"):
        stored_tensors(first)


@pytest.mark.parametrize(("stem", "ends"), [("weights", [7]), ("weights", [4, 7]), ("a[sr]", [7])])
@pytest.mark.parametrize("other", ["safetensors", "rank0-of-3.safetensors", "rank2-of-3.safetensors"])
def test_files_of_two_sets_are_not_taken_for_one(
    tmp_path: Path, stem: str, ends: list[int], other: str
) -> None:
    first = write_pieces(tmp_path, torch.randn(7, 3), ends, stem)
    (tmp_path / f"{stem}2.{other}").touch()  # of another name
    assert check_stored(first) is False
    assert stored_tensors(first)["table"].shape == (7, 3)
    if other == "safetensors" and len(ends) == 1:
        return
    (tmp_path / f"{stem}.{other}").touch()
    said = re.escape(f"{stem}.{other} lies beside {first.name}: files of two are mixed")
    for read in (stored_tensors, check_stored):
        with pytest.raises(ValueError, match=said):
            read(first)


def test_a_name_that_promises_a_billion_pieces_is_no_promise(tmp_path: Path) -> None:
    first = tmp_path / "weights.rank0-of-1000000000.safetensors"
    write_tensors(first, TENSORS, {})
    with pytest.raises(FileNotFoundError, match="rank1-of-1000000000"):
        stored_tensors(first)


@pytest.mark.parametrize(
    "texts",
    [{"kikimimi": '{"stage": "sft"}'}, {"stage": "sft", "recipe": "0" * 64}],
    ids=["left", "imported"],
)
def test_weights_of_another_stage_are_told(tmp_path: Path, texts: dict[str, str]) -> None:
    path = tmp_path / "asr.safetensors"
    write_tensors(path, TENSORS, texts)
    check_stage(path, "sft")
    with pytest.raises(ValueError, match=r"^asr\.safetensors holds .* stage 'sft', not of stage 'asr'$"):
        check_stage(path, "asr")
    write_tensors(path, TENSORS, {})
    check_stage(path, "asr")  # it tells none


def test_a_file_that_is_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.safetensors is no safetensors file, or ends too early"):
        stored_tensors(path)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"a\.safetensors is no safetensors file"):
        stored_tensors(path)
