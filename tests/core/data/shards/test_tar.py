from __future__ import annotations

import io
import tarfile
from random import Random

import pytest

from kikimimi.data.shards.tar import BrokenTarError, read_entries


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], kind: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, **options) as tar:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_tarfile(kind: int) -> None:
    rng = Random(kind)
    names = ["a.json", "./b.json", "folder/c.json", "d" * 90 + "/" + "e" * 90, "名前.json"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["長い名前" * 60 + ".json", "x" * 101, "y" * 100 + "/" + "z" * 156]
    members = []
    for name in names:
        info = tarfile.TarInfo(name)
        info.mtime, info.uname = rng.random() * 2e9, "ゆう" if kind == tarfile.PAX_FORMAT else "u"
        members.append((info, rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000]))))
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    options = {"pax_headers": {"comment": "made by hand"}} if kind == tarfile.PAX_FORMAT else {}
    data = _tar([(folder, b""), *members], kind, **options)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = [
            (info.name, info.offset, tar.extractfile(info).read())  # type: ignore[union-attr]
            for info in tar
            if info.isreg()
        ]
    entries = list(read_entries(io.BytesIO(data), whole=True))
    assert [(entry.name, entry.offset, entry.content) for entry in entries] == wanted
    assert [name for name, _, _ in wanted] == names
    assert all(entry.regular for entry in entries)
    for entry in entries:  # each is read alone from its piece, as training does
        piece = io.BytesIO(data[entry.offset : entry.end])
        assert list(read_entries(piece, start=entry.offset)) == [entry]


def test_sizes_beyond_octal_digits_are_told_from_damage() -> None:
    info = tarfile.TarInfo("a.json")
    info.size = 1 << 40
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(BrokenTarError, match=r"member 'a\.json' breaks off; the shard is truncated"):
        list(read_entries(io.BytesIO(header), whole=True))
    header = info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(BrokenTarError, match="breaks off"):
        list(read_entries(io.BytesIO(header + bytes(1024)), whole=True))


def test_times_in_a_header_of_gnu_are_no_name() -> None:
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    header[345:357] = b"14713517000\0"  # `tar --incremental` writes when the file was read
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    entries = read_entries(io.BytesIO(bytes(header) + bytes(1024)), whole=True)
    assert [entry.name for entry in entries] == ["a.json"]


def _pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records)
    body = tarfile.TarInfo("a.json")
    return (
        info.tobuf(tarfile.USTAR_FORMAT)
        + records.ljust(-(-len(records) // 512) * 512, b"\0")
        + body.tobuf(tarfile.USTAR_FORMAT)
        + bytes(1024)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_pax(b"12 path=a.b\n"), None),
        (_pax(b"99 path=a.b\n"), "damaged pax header"),
        (_pax(b"12 path a.b\n"), "damaged pax header"),
        (_pax(b"0 path=a.b\n"), "damaged pax header"),
        (_pax(b"11 size=-1\n"), "damaged pax header"),
        (_pax(b"24 GNU.sparse.size=1000\n"), "a sparse member"),
        (_pax(b"12 path=a.b\n", tarfile.XGLTYPE), "a name or size for all that follow"),
        (_pax(b"15 comment=abc\n", tarfile.XGLTYPE), None),
        (_pax(b"x" * (1 << 20) + b"x", tarfile.GNUTYPE_LONGNAME), "a header of 1048577 bytes: damaged"),
    ],
)
def test_pax_headers(data: bytes, message: str | None) -> None:
    if message is None:
        assert len(list(read_entries(io.BytesIO(data), whole=True))) == 1
        return
    with pytest.raises(BrokenTarError, match=message) as caught:
        list(read_entries(io.BytesIO(data), whole=True))
    assert caught.value.offset == 0


def test_links_and_devices_are_told_from_files() -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("a.json")
        info.type, info.linkname = kind, "/etc/passwd"
        data = info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
        assert [entry.regular for entry in read_entries(io.BytesIO(data), whole=True)] == [False]


def test_damage_anywhere_is_a_broken_tar_or_other_content() -> None:
    rng = Random(0)
    infos = [tarfile.TarInfo(name) for name in ("a.json", "a.0.flac", "b" * 150 + ".json")]
    data = _tar([(info, rng.randbytes(700)) for info in infos], tarfile.PAX_FORMAT)
    intact = list(read_entries(io.BytesIO(data), whole=True))
    broken = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        file = io.BytesIO(bytes(damaged[: rng.randint(1, len(data))]))
        try:
            # A lucky hit of a checksum aside, only contents differ unseen; these have hashes of their own.
            assert len(list(read_entries(file, whole=True))) <= len(intact)
        except BrokenTarError:
            broken += 1
    assert broken > 200
