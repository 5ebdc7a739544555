"""Driver oci: images made here, in both archive forms, good and forged."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hostler.contracts.driver import Host
from hostler.contracts.images import Unpacked, UnpackLimits
from hostler.core.errors import Invalid
from hostler_plugins.images.oci import Oci
from hostler_plugins.images.oci_layout import Descriptor, Platform, choose, machine_architecture

pytestmark = pytest.mark.lab
Make = Callable[..., bytes]
HERE = machine_architecture()
OCI = "application/vnd.oci.image."
FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o755}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Builder:
    """An image layout in memory."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes, media_type: str, **more: object) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def document(self, value: object, media_type: str, **more: object) -> dict[str, Any]:
        return self.put(json.dumps(value).encode(), media_type, **more)

    def config(self, layers: list[bytes], architecture: str = HERE, **run: object) -> dict[str, Any]:
        value = {
            "architecture": architecture,
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        return self.document(value, OCI + "config.v1+json")

    def image(self, *layers: bytes, architecture: str = HERE, **run: object) -> dict[str, Any]:
        """A manifest of these layers: plain, gzip and zstd in turn."""
        packs: list[tuple[str, Callable[[bytes], bytes]]] = [
            ("tar", bytes),
            ("tar+gzip", gzip.compress),
            ("tar+zstd", zstandard.ZstdCompressor().compress),
        ]
        described = []
        for number, layer in enumerate(layers):
            suffix, pack = packs[number % 3]
            described.append(self.put(pack(layer), f"{OCI}layer.v1.{suffix}"))
        value = {"schemaVersion": 2, "config": self.config(list(layers), architecture, **run), "layers": described}
        return self.document(value, OCI + "manifest.v1+json", platform={"architecture": architecture, "os": "linux"})

    def archive(self, *manifests: dict[str, Any]) -> bytes:
        index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
        return self.make(
            *({"name": "blobs/" + key.replace(":", "/"), "data": data} for key, data in self.blobs.items()),
            {"name": "index.json", "data": index},
            {"name": "oci-layout", "data": b'{"imageLayoutVersion": "1.0.0"}'},
        )


Unpack = Callable[[bytes], Unpacked]


@pytest.fixture
def builder(make_tar: Make) -> Builder:
    return Builder(make_tar)


@pytest.fixture
def unpack(host: Host, into: Path, tmp_path: Path) -> Unpack:
    """Unpacks an archive; the driver must take it for its own."""

    def unpack(content: bytes, limits: UnpackLimits | None = None) -> Unpacked:
        archive = tmp_path / "archive"
        archive.write_bytes(content)
        driver = Oci(host)
        assert driver.accepts(archive)
        return driver.unpack(archive, into, limits or UnpackLimits())

    return unpack


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_layers_and_configuration(builder: Builder, make_tar: Make, unpack: Unpack, into: Path, host: Host) -> None:
    layers = [
        make_tar({"name": "bin", **FOLDER, "mtime": 100}, {"name": "bin/sh", "data": b"old"}, {"name": "etc/x", "data": b"1"}),
        make_tar({"name": "bin/sh", "data": b"newer"}),
        make_tar({"name": "etc/.wh.x"}, {"name": "etc/y", "data": b"2"}),
    ]
    manifest = builder.image(
        *layers,
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["echo"],
        Env=["A=b=c"],
        User="33:33",
        WorkingDir="srv",
        ExposedPorts={"80/tcp": {}, "53": {}},
        StopSignal="3",
    )
    unpacked = unpack(builder.archive(manifest))
    assert tree(into) == ["bin", "bin/sh", "etc", "etc/y"]
    assert (into / "bin/sh").read_bytes() == b"newer"
    assert (into / "bin").stat().st_mtime == 100
    assert unpacked.model_dump() == {
        "bytes": 10,
        "entries": 6,
        "architecture": HERE,
        "config": {
            "entrypoint": ("/bin/sh", "-c"),
            "cmd": ("echo",),
            "env": ("A=b=c",),
            "user": "33:33",
            "workdir": "/srv",
            "ports": ("53/tcp", "80/tcp"),
            "stop_signal": "SIGQUIT",
        },
    }
    assert not (host.state_dir / "images").exists()


def test_an_archive_compressed_as_a_whole(builder: Builder, make_tar: Make, unpack: Unpack, into: Path, host: Host) -> None:
    unpack(gzip.compress(builder.archive(builder.image(make_tar({"name": "bin/sh"})))))
    assert tree(into) == ["bin", "bin/sh"]
    assert tree(host.state_dir) == ["images", "images/oci"]


LOWER = [{"name": "keep"}, {"name": "d/a"}, {"name": "d/sub/b"}, {"name": "d/sub/c"}]


@pytest.mark.parametrize(
    ("upper", "wanted"),
    [
        ([{"name": "d/.wh.a"}], ["d", "d/sub", "d/sub/b", "d/sub/c", "keep"]),
        ([{"name": ".wh.d"}], ["keep"]),
        ([{"name": ".wh.nothing"}, {"name": "no/where/.wh.x"}], ["d", "d/a", "d/sub", "d/sub/b", "d/sub/c", "keep"]),
        ([{"name": "d/.wh..wh..opq"}, {"name": "d/new"}], ["d", "d/new", "keep"]),
        # The order within a layer makes no difference.
        ([{"name": "d/new"}, {"name": "d/.wh..wh..opq"}], ["d", "d/new", "keep"]),
        ([{"name": "d/sub/new"}, {"name": "d/.wh..wh..opq"}, {"name": "d/.wh..wh..opq"}], ["d", "d/sub", "d/sub/new", "keep"]),
        ([{"name": "d/sub/new"}, {"name": ".wh.d"}, {"name": ".wh.d"}], ["d", "d/sub", "d/sub/new", "keep"]),
        ([{"name": "d/a", "data": b"new"}, {"name": "d/.wh.a"}], ["d", "d/a", "d/sub", "d/sub/b", "d/sub/c", "keep"]),
        ([{"name": ".wh..wh..opq"}, {"name": "x"}], ["x"]),
        ([{"name": ".wh..wh.plnk/1.2"}, {"name": ".wh..wh.aufs"}], ["d", "d/a", "d/sub", "d/sub/b", "d/sub/c", "keep"]),
        ([{"name": "d", "data": b"a file now"}], ["d", "keep"]),
        ([{"name": ".wh.keep"}, {"name": ".wh.d"}, {"name": "d/sub/x"}], ["d", "d/sub", "d/sub/x"]),
    ],
)
def test_whiteouts(
    builder: Builder, make_tar: Make, unpack: Unpack, into: Path, upper: list[dict[str, object]], wanted: list[str]
) -> None:
    unpack(builder.archive(builder.image(make_tar(*LOWER), make_tar(*upper))))
    assert tree(into) == wanted


def link(name: str, target: str) -> dict[str, object]:
    return {"name": name, "type": tarfile.SYMTYPE, "linkname": target}


@pytest.mark.parametrize("name", ["../.wh.outside", "/.wh.etc", ".wh.", ".wh..", ".wh...", "d/.wh.x/y"])
def test_hostile_whiteouts_are_refused(builder: Builder, make_tar: Make, unpack: Unpack, name: str) -> None:
    with pytest.raises(Invalid):
        unpack(builder.archive(builder.image(make_tar(*LOWER), make_tar({"name": name}))))


def test_whiteouts_through_links_stay_inside(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    lower = make_tar(link("up", "../outside"), link("abs", "/"), {"name": "x"}, link("self", "../outside/secret"))
    upper = make_tar({"name": "up/.wh.secret"}, {"name": "up/.wh..wh..opq"}, {"name": "abs/.wh.x"}, {"name": ".wh.self"})
    unpack(builder.archive(builder.image(lower, upper)))
    assert tree(into) == ["abs", "up"]


def test_opaque_folders_cost_one_walk(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    """Thousands of them over a full folder of the same layer end at once."""
    files = [{"name": f"d/{n}"} for n in range(2000)]
    unpack(builder.archive(builder.image(make_tar(*files, *({"name": "d/.wh..wh..opq"} for _ in range(4000))))))


# --- trust ---


def forged(builder: Builder, key: str, data: bytes) -> None:
    assert key in builder.blobs
    builder.blobs[key] = data


@pytest.mark.parametrize("victim", ["manifest", "config", "layer"])
def test_every_digest_is_verified(builder: Builder, make_tar: Make, unpack: Unpack, into: Path, victim: str) -> None:
    layer = make_tar({"name": "bin/sh", "data": b"good"})
    manifest = builder.image(layer)
    value = json.loads(builder.blobs[manifest["digest"]])
    key = {"manifest": manifest["digest"], "config": value["config"]["digest"], "layer": value["layers"][0]["digest"]}[victim]
    forged(builder, key, builder.blobs[key].replace(b"good", b"evil").replace(b"layers", b"Layers"))
    with pytest.raises(Invalid) as caught:
        unpack(builder.archive(manifest))
    assert caught.value.stable_code == "image_digest_mismatch"
    assert tree(into) == []


def test_a_layer_must_match_its_diff_id(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    packed = builder.put(gzip.compress(make_tar({"name": "bin/sh"})), OCI + "layer.v1.tar+gzip")
    other = builder.config([make_tar({"name": "bin/other"})])
    manifest = builder.document({"config": other, "layers": [packed]}, OCI + "manifest.v1+json")
    with pytest.raises(Invalid, match="diff_id"):
        unpack(builder.archive(manifest))


def test_bytes_after_the_end_marker_are_part_of_the_diff_id(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    unpack(builder.archive(builder.image(make_tar({"name": "bin/sh"}) + b"trailer" * 90_000)))
    assert tree(into) == ["bin", "bin/sh"]


def test_sizes_are_checked(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    manifest = builder.image(make_tar({"name": "bin/sh"}))
    with pytest.raises(Invalid, match="instead of 5"):
        unpack(builder.archive({**manifest, "size": 5}))


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"name": "../evil"}, "image_unsafe"),
        ({"name": "dev/null", "type": tarfile.CHRTYPE}, "image_unsafe"),
        ({"name": "a", "uid": 70_000}, "image_unsafe"),
    ],
)
def test_hostile_layers_are_refused(
    builder: Builder, make_tar: Make, unpack: Unpack, item: dict[str, object], code: str
) -> None:
    with pytest.raises(Invalid) as caught:
        unpack(builder.archive(builder.image(make_tar({"name": "bin/sh"}), make_tar(item))))
    assert caught.value.stable_code == code


def test_limits_count_over_all_layers(builder: Builder, make_tar: Make, host: Host, into: Path, tmp_path: Path) -> None:
    layers = [make_tar({"name": "same", "data": os.urandom(60_000)}) for _ in range(3)]
    (tmp_path / "archive").write_bytes(builder.archive(builder.image(*layers)))
    with pytest.raises(Invalid) as caught:
        Oci(host).unpack(tmp_path / "archive", into, UnpackLimits(bytes=150_000, entries=1000))
    assert caught.value.stable_code == "image_too_large"


# --- choosing ---


def test_this_machines_image_among_many(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    foreign = builder.image(make_tar({"name": "bin/foreign"}), architecture="sparc")
    ours = builder.image(make_tar({"name": "bin/ours"}))
    attestation = builder.document({}, OCI + "manifest.v1+json", platform={"architecture": "unknown", "os": "unknown"})
    nested = builder.document({"manifests": [foreign, ours, attestation]}, OCI + "index.v1+json")
    unpack(builder.archive(nested))
    assert tree(into) == ["bin", "bin/ours"]


@pytest.mark.parametrize("named", [True, False])
def test_only_foreign_images(builder: Builder, make_tar: Make, unpack: Unpack, named: bool) -> None:
    manifest = builder.image(make_tar({"name": "bin/sh"}), architecture="sparc")
    if not named:
        del manifest["platform"]
    with pytest.raises(Invalid, match="but linux/sparc") as caught:
        unpack(builder.archive(manifest))
    assert f"--platform linux/{HERE}" in caught.value.hint


def test_several_images_are_ambiguous(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    manifests = [builder.image(make_tar({"name": f"bin/{name}"})) for name in ("a", "b")]
    for name, manifest in zip(("one:1", "two:2"), manifests, strict=True):
        del manifest["platform"]
        manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
    with pytest.raises(Invalid, match="2 images: one:1, two:2"):
        unpack(builder.archive(*manifests))


def test_the_plain_variant_is_preferred() -> None:
    def offer(number: int, variant: str) -> Descriptor:
        platform = Platform(architecture="amd64", os="linux", variant=variant)
        return Descriptor(digest=f"sha256:{number:064x}", size=1, media_type="", platform=platform)

    assert choose([offer(1, "v3"), offer(2, ""), offer(3, "v2")], "amd64").digest.endswith("2")
    assert choose([offer(1, "v3"), offer(2, "v2")], "amd64").digest.endswith("1")


def test_endless_nesting(builder: Builder, unpack: Unpack) -> None:
    index = builder.document({"manifests": []}, OCI + "index.v1+json")
    for _ in range(10):
        index = builder.document({"manifests": [index]}, OCI + "index.v1+json")
    with pytest.raises(Invalid, match="indexes below each other"):
        unpack(builder.archive(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "0 layers, but 1 diff_ids"),
        ({"layers": "x"}, "its manifest: layers: "),
        ({"layers": [{"mediaType": OCI + "layer.v1.tar+encrypted", "digest": "sha256:" + "0" * 64, "size": 1}]}, "unknown type"),
        ({"layers": [{"mediaType": OCI + "layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": 1}]}, "missing in its archive"),
        ({"layers": [{"mediaType": OCI + "layer.v1.tar", "digest": "sha256:../../../x", "size": 1}]}, "its manifest: layers.0.digest"),
        ({"layers": [{"mediaType": OCI + "layer.v1.tar", "digest": "md5:0", "size": 1}]}, "its manifest: layers.0.digest"),
        ({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}}, "no container image"),
    ],
)  # fmt: skip
def test_manifests_that_make_no_sense(
    builder: Builder, make_tar: Make, unpack: Unpack, change: dict[str, object], message: str
) -> None:
    manifest = builder.image(make_tar({"name": "bin/sh"}))
    value = json.loads(builder.blobs.pop(manifest["digest"])) | change
    with pytest.raises(Invalid, match=message):
        unpack(builder.archive(builder.document(value, OCI + "manifest.v1+json")))


@pytest.mark.parametrize(
    "run", [{"Env": ["A\0=b"]}, {"Env": ["novalue"]}, {"StopSignal": "NOSUCH"}, {"Cmd": "text"}, {"StopSignal": "99"}]
)
def test_configurations_that_make_no_sense(builder: Builder, make_tar: Make, unpack: Unpack, run: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        unpack(builder.archive(builder.image(make_tar({"name": "bin/sh"}), **run)))


@pytest.mark.parametrize("text", [b"", b"[", b"[1]", b"{}", b"\xff", b"[" * 100_000, b'{"manifests": [{"digest": 1}]}'])
def test_broken_documents(builder: Builder, unpack: Unpack, text: bytes) -> None:
    content = builder.make(
        {"name": "index.json", "data": text}, {"name": "oci-layout"}, {"name": "blobs/sha256/" + "0" * 64, "data": b""}
    )
    with pytest.raises(Invalid):
        unpack(content)


# --- docker save ---


def saved(builder: Builder, layers: list[bytes], names: list[str], *extra: dict[str, object], architecture: str = HERE) -> bytes:
    config = builder.blobs[builder.config(layers, architecture, Cmd=["/bin/sh"])["digest"]]
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["web:1"], "Layers": names}]).encode()
    plain = [{"name": path, "data": data} for path, data in zip(names, layers, strict=False)]
    return builder.make(*plain, *extra, {"name": name, "data": config}, {"name": "manifest.json", "data": manifest})


def test_docker_save(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    layers = [make_tar({"name": "bin/sh"}, {"name": "a"}), make_tar({"name": ".wh.a"})]
    unpacked = unpack(saved(builder, layers, ["1" * 64 + "/layer.tar", "2" * 64 + "/layer.tar"]))
    assert tree(into) == ["bin", "bin/sh"]
    assert unpacked.config.cmd == ("/bin/sh",)


def test_docker_save_links_shared_layers(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    layer = make_tar({"name": "bin/sh"})
    names = ["1" * 64 + "/layer.tar", "2" * 64 + "/layer.tar"]
    shared = link(names[1], f"../{'1' * 64}/layer.tar")
    config = builder.blobs[builder.config([layer, layer], Cmd=["x"])["digest"]]
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "Layers": names}]).encode()
    unpack(builder.make({"name": names[0], "data": layer}, shared, {"name": name, "data": config}, {"name": "manifest.json", "data": manifest}))
    assert tree(into) == ["bin", "bin/sh"]


def test_docker_save_is_verified_before_unpacking(builder: Builder, make_tar: Make, unpack: Unpack, into: Path) -> None:
    layer = make_tar({"name": "bin/sh", "data": b"good"})
    content = saved(builder, [layer], ["1" * 64 + "/layer.tar"]).replace(b"good", b"evil")
    with pytest.raises(Invalid) as caught:
        unpack(content)
    assert caught.value.stable_code == "image_digest_mismatch"
    assert tree(into) == []


def test_docker_save_for_another_machine(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    with pytest.raises(Invalid, match="but linux/sparc"):
        unpack(saved(builder, [make_tar({"name": "x"})], ["1" * 64 + "/layer.tar"], architecture="sparc"))


def test_layer_names_cannot_leave_the_archive(builder: Builder, make_tar: Make, unpack: Unpack) -> None:
    layer = make_tar({"name": "bin/sh"})
    for extra in (link("1" * 64 + "/layer.tar", "/etc/passwd"), link("1" * 64 + "/layer.tar", "layer.tar")):
        config = builder.config([layer])["digest"].removeprefix("sha256:")
        manifest = json.dumps([{"Config": config + ".json", "Layers": ["1" * 64 + "/layer.tar"]}]).encode()
        data = builder.blobs["sha256:" + config]
        with pytest.raises(Invalid, match="missing in its archive"):
            unpack(builder.make(extra, {"name": config + ".json", "data": data}, {"name": "manifest.json", "data": manifest}))
