"""Arrays on disk that survive a kill: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGEST_BYTES = hashlib.sha256().digest_size


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that readers meet the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class FeatureStore:
    """Numeric arrays under ``root``, one file for each key.

    A file is named by the hash of its key, so a key may hold any characters. It is a ``.npy`` file that
    ``numpy.load`` reads, followed by the SHA-256 of the key and the array: a damaged file, or one that lies
    under another key's name, reads as absent and is computed anew. Writers replace whole files, so two
    processes may share a store.
    """

    root: Path

    def read(self, key: str) -> np.ndarray | None:
        """The array written under ``key``; None where there is none, or none that is intact."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        array, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if digest != _digest(key, array):
            return None
        loaded: np.ndarray = np.load(io.BytesIO(array), allow_pickle=False)
        return loaded

    def write(self, key: str, array: np.ndarray) -> None:
        """Keep ``array`` under ``key``, in place of what was there.

        Raises:
            ValueError: the array holds Python objects.
        """
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = buffer.getvalue()
        write_atomically(self._path(key), content + _digest(key, content))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.root / name[:2] / f"{name}.npy"


def _digest(key: str, array: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + array).digest()
