"""What a source of an image is, told by what lies in it; what cannot be read is bad input."""

import io
import tarfile
import zlib
from pathlib import Path

import pytest

from scalebox_actors.errors import BadInput
from scalebox_actors.runtimes.oci_import import kind_of


def tar_of(**files: bytes) -> bytes:
    """Return a tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def damaged_gzip() -> bytes:
    """Return a tar whose compressed bytes become none that can be, behind its first header."""
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(tar_of(a=b"x" * 500_000)[:200_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + b"\xff" * 1000


def with_pax(record: bytes) -> bytes:
    """Return a tar with an extended header that says what no program writes."""
    header, member = tarfile.TarInfo("x"), tarfile.TarInfo("y")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    padded = record + bytes(-len(record) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + padded + member.tobuf() + bytes(1024)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"manifest.json": b"[{}]"}, "docker-archive"),
        ({"manifest.json": b"[{}]", "oci-layout": b"{}"}, "docker-archive"),
        ({"manifest.json": b'{"name": "of a web page"}'}, "tree"),
        ({"manifest.json": b"no json"}, "tree"),
        ({"manifest.json": b"", "oci-layout": b"{}"}, "oci-archive"),
        ({"etc": b""}, "tree"),
    ],
)
def test_what_an_archive_is(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    """A root file system may have a file of any name; only docker writes a list of images."""
    (tmp_path / "a.tar").write_bytes(tar_of(**files))

    assert expected == kind_of(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(damaged_gzip(), id="gzip"),
        pytest.param(with_pax(b"9" * 5000 + b" a=b\n"), id="a-long-number"),
        pytest.param(with_pax(b"30 GNU.sparse.size=abcdefghij\n"), id="no-number"),
        pytest.param(with_pax(b"28 size=%s\n" % (b"9" * 19)), id="a-large-number"),
    ],
)
def test_what_cannot_be_read_is_bad_input(tmp_path: Path, data: bytes) -> None:
    """Damaged or crafted, it is a fault of the file and none of the program."""
    (tmp_path / "a.tar.gz").write_bytes(data)

    with pytest.raises(BadInput):
        kind_of(tmp_path / "a.tar.gz")
