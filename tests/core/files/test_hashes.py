"""A folder is as its manifest says: no file is other, missing, or one too many."""

from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.files.hashes import check_files, mark, write_manifest

pytestmark = pytest.mark.fault(
    "Our files: empty, torn, of another type or encoding", "named, with what to do"
)


def test_a_file_that_the_manifest_does_not_list_is_found_in_folders_too(tmp_path: Path) -> None:
    """What was dropped from the manifest was taken unverified."""
    names = ["a.json", "inner/b.json", "inner/deeper/c.json", "inner/d.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("{}")
    marks = {name: mark(tmp_path / name) for name in names}
    write_manifest(tmp_path, {}, marks)
    assert check_files(tmp_path, {})
    for name in names[:3]:
        write_manifest(tmp_path, {}, {other: marks[other] for other in names if other != name})
        with pytest.raises(ValueError, match=f"^{name} is not one of its files"):
            check_files(tmp_path, {})
