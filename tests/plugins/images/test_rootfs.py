"""Driver rootfs, and telling the two formats apart."""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from hostler.contracts.driver import Host
from hostler.contracts.images import UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.specs import ImageConfig
from hostler_plugins.images.oci import Oci
from hostler_plugins.images.rootfs import Rootfs

pytestmark = pytest.mark.lab
Make = Callable[..., bytes]
HEX = "0123456789abcdef" * 4


def accepted(host: Host, content: bytes, folder: Path) -> list[str]:
    archive = folder / "archive"
    archive.write_bytes(content)
    return [driver.name for driver in (Rootfs(host), Oci(host)) if driver.accepts(archive)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress])
def test_unpacks_every_compression(make_tar: Make, host: Host, into: Path, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(make_tar({"name": "./bin/sh", "data": b"#!", "mode": 0o755}, {"name": "./etc/passwd"})))
    driver = Rootfs(host)
    assert driver.accepts(archive)
    unpacked = driver.unpack(archive, into, UnpackLimits())
    assert (unpacked.bytes, unpacked.entries, unpacked.config) == (2, 4, ImageConfig())
    assert (into / "bin/sh").read_bytes() == b"#!"


def test_what_is_no_root_is_refused_with_advice(make_tar: Make, host: Host, into: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(make_tar({"name": "myroot/bin/sh"}))
    with pytest.raises(Invalid) as caught:
        Rootfs(host).unpack(archive, into, UnpackLimits())
    assert caught.value.stable_code == "image_not_root"
    assert "tar -C ROOT" in caught.value.hint


def test_a_cut_archive_is_refused(make_tar: Make, host: Host, into: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    content = gzip.compress(make_tar(*({"name": f"usr/{n}", "data": os.urandom(900)} for n in range(50))))
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(Invalid, match="damaged"):
        Rootfs(host).unpack(archive, into, UnpackLimits())


BLOB = {"name": f"blobs/sha256/{HEX}", "data": b"x" * 5000}


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ([{"name": "./"}, {"name": "./usr/bin/x"}], ["rootfs"]),
        ([{"name": "opt/x"}, {"name": "etc/x"}], ["rootfs"]),
        ([{"name": "manifest.json"}, {"name": "bin/x"}], ["rootfs"]),
        ([{"name": "bin", "data": b"a file"}], []),
        ([{"name": "readme"}], []),
        ([], []),
        ([BLOB, {"name": "index.json"}, {"name": "oci-layout"}], ["oci"]),
        ([{"name": "oci-layout"}, {"name": "index.json"}, BLOB], ["oci"]),
        ([{"name": "./oci-layout"}, {"name": "./index.json"}, {"name": "./" + str(BLOB["name"])}], ["oci"]),
        ([{"name": f"{HEX}/layer.tar"}, {"name": f"{HEX}.json"}, {"name": "manifest.json"}], ["oci"]),
        ([BLOB, {"name": "index.json"}], []),
        ([{"name": "index.json"}, {"name": "oci-layout"}], []),
        ([{"name": "other"}, BLOB, {"name": "index.json"}, {"name": "oci-layout"}], []),
    ],
)
def test_formats_are_told_apart(
    make_tar: Make, host: Host, tmp_path: Path, items: list[dict[str, object]], wanted: list[str]
) -> None:
    plain = make_tar(*items)
    for content in (plain, gzip.compress(plain), zstandard.ZstdCompressor().compress(plain)):
        assert accepted(host, content, tmp_path) == wanted


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b broken", b"BZh9", bytes(10_000), b"\x28\xb5\x2f\xfd\0\0"])
def test_looking_never_raises(host: Host, tmp_path: Path, content: bytes) -> None:
    assert accepted(host, content, tmp_path) == []


def test_probe_names_what_is_there(host: Host) -> None:
    probe = Rootfs(host).probe()
    assert probe.usable
    assert "openat2" in probe.offers
