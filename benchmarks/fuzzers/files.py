"""Damaged files of every kind that is read: a one-line error that names the file, or right values, in little memory.

A child process reads them, so that a crash, a hang or an allocation beyond its limit is counted and not suffered. Where
a checksum is read (npz, zip, logs), what is read must be what was written; elsewhere damage can make another file that
is as good (Pillow does not look at the checksums of pixels), and only how it fails is judged.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image

from fuzzers.tally import Tally
from jaxrel.data.readers import read_idx, read_npz, read_numpy_pickle, read_pictures, read_table
from jaxrel.encoders.checkpoints.files import read_checkpoint, read_json
from jaxrel.encoders.checkpoints.onnx_file import read_initialisers
from jaxrel.storage.records import RecordLog

__all__ = ["batches"]

_FILES = 400  # of each format in a batch
_MEMORY = 2**29  # that the child may take on top of what its imports did
_SECONDS = 120  # for all files of a batch
_CHILD = "import sys; from fuzzers.files import read_all; read_all(sys.argv[1], sys.argv[2])"


class _Log(RecordLog[dict[str, Any]]):
    def encoded(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def decoded(self, record: dict[str, Any]) -> dict[str, Any]:
        return record


class _Format(NamedTuple):
    """How a file is written and read, and whether damage of values can be told."""

    suffix: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    checked: bool


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Round after round over the formats."""
    while True:
        for name in _FORMATS:
            yield _tally(rng, name)


def read_all(name: str, folder: str) -> None:
    """What the child does: a line for each file, before the next is read."""
    form = _FORMATS[name]
    right = _plain(form.read(Path(folder) / f"whole{form.suffix}"))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
    for path in sorted(Path(folder).glob(f"damaged*{form.suffix}")):
        print(_outcome(form, path, right), flush=True)


def _outcome(form: _Format, path: Path, right: Any) -> str:
    try:
        found = _plain(form.read(path))
    except (ValueError, OSError) as error:
        message = str(error)
        named = path.name in message and "\n" not in message
        return "refused" if named else f"false: {type(error).__name__} {message!r}"
    except BaseException as error:  # whatever else is raised is what is looked for
        return f"false: {type(error).__name__} {str(error)[:200]!r}"
    return "right" if found == right or not form.checked or _is_part(found, right) else f"false: read as {found!r:.200}"


def _is_part(found: Any, right: Any) -> bool:
    """Whether records were left out, and the others are right."""
    return isinstance(found, list) and all(one in right for one in found)


def _plain(value: Any) -> Any:
    """Arrays as something that can be compared."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes() if value.dtype != object else value.tolist()
    return value


def _tally(rng: np.random.Generator, name: str) -> Tally:
    form = _FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / f"whole{form.suffix}"
        form.write(whole)
        content = whole.read_bytes()
        for number in range(_FILES):
            (Path(folder) / f"damaged{number:04}{form.suffix}").write_bytes(_damaged(rng, content))
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, name, folder]
        try:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            child = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment)
            outcomes, end = child.stdout.splitlines(), child.stderr[-300:]
        except subprocess.TimeoutExpired as error:
            outcomes, end = (error.stdout or b"").decode().splitlines(), f"nothing after {_SECONDS} s"
        wrong = [(number, line) for number, line in enumerate(outcomes) if line.startswith("false")]
        if len(outcomes) < _FILES:
            wrong.append((len(outcomes), f"the process ended: {end}"))
        example = ""
        if wrong:
            number, line = wrong[0]
            damaged = (Path(folder) / f"damaged{number:04}{form.suffix}").read_bytes()
            example = f"{line} {damaged[:2000]!r}"
    return Tally(name, _FILES, len(wrong), outcomes.count("refused"), 0.0, example)


def _damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """With some bits flipped, bytes overwritten, inserted, taken out or repeated, or the end cut off."""
    array = np.frombuffer(content, np.uint8).copy()
    for _ in range(int(rng.integers(1, 4))):
        at, size = int(rng.integers(len(array))) if len(array) else 0, int(rng.integers(1, 17))
        kind = int(rng.integers(6))
        if kind == 0 and len(array):
            array[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            array[at : at + size] = rng.choice([0, 127, 255])
        elif kind == 2:
            array = np.insert(array, at, rng.integers(0, 256, size).astype(np.uint8))
        elif kind == 3:
            array = np.delete(array, slice(at, at + size))
        elif kind == 4:
            array = np.insert(array, at, array[at : at + 8 * size])
        else:
            array = array[:at]
    return array.tobytes()


# Formats

_TENSORS: dict[str, Any] = {"a": np.arange(60, dtype=np.float32).reshape(3, 20), "b": np.arange(7)}


def _write_npz(path: Path) -> None:
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    np.savez_compressed(path, images=images, labels=np.arange(5) % 2)


def _write_log(path: Path) -> None:
    with _Log(path) as log:
        log.extend({"key": f"{number:04}", "value": number / 7, "fields": {"a": None}} for number in range(6))


def _read_log(path: Path) -> list[Any]:
    with _Log(path) as log:
        return [log.find(f"{number:04}") for number in range(6) if log.find(f"{number:04}")]


def _write_picture(path: Path) -> None:
    Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)).save(path)


def _read_picture(path: Path) -> list[Any]:
    found = read_pictures([path])
    return list(found.pixels) if found.kept else []


def _torch_pickle() -> bytes:
    """One tensor, as PyTorch pickles it."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0ctQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x03K\x04t(K\x04K\x01t\x89" + hooks + b"tR"
    return b"\x80\x02" + hooks + b"(U\x01a" + tensor + b"u."


def _write_torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _torch_pickle())
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", np.arange(12, dtype="<f4").tobytes())
        archive.writestr("archive/version", b"3\n")


def _write_legacy_torch(path: Path) -> None:
    file = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, file, 2)
    file.write(_torch_pickle())
    pickle.dump(["0"], file, 2)
    file.write(struct.pack("<Q", 12) + np.arange(12, dtype="<f4").tobytes())
    path.write_bytes(file.getvalue())


def _write_onnx(path: Path) -> None:
    import onnx

    product = onnx.helper.make_node("MatMul", ["x", "a"], ["y"])
    weights = onnx.numpy_helper.from_array(_TENSORS["a"], "a")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([product], "g", [], [], [weights])), path)


def _write_idx(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 2]) + struct.pack(">II", 3, 20) + bytes(range(60)))


def _table(path: Path) -> Any:
    found = read_table(path)
    return [found.labels]


_FORMATS = {
    "npz data set": _Format(".npz", _write_npz, lambda path: list(read_npz(path)[:2]), True),
    "npz checkpoint": _Format(".npz", lambda path: np.savez(path, **_TENSORS), read_checkpoint, True),
    "safetensors": _Format(
        ".safetensors", lambda path: safetensors.numpy.save_file(_TENSORS, path), read_checkpoint, False
    ),
    "PyTorch": _Format(".pt", _write_torch, read_checkpoint, True),
    "PyTorch before 1.6": _Format(".pt", _write_legacy_torch, read_checkpoint, False),
    "ONNX": _Format(".onnx", _write_onnx, read_initialisers, False),
    "log of scores": _Format(".jsonl", _write_log, _read_log, True),
    "CSV": _Format(".csv", lambda path: path.write_text("text,label\n" + "good,pos\nbad,neg\n" * 9), _table, False),
    "PNG": _Format(".png", _write_picture, _read_picture, False),
    "IDX": _Format(".idx", _write_idx, read_idx, False),
    "pickled array": _Format(
        ".pickle", lambda path: path.write_bytes(pickle.dumps(np.arange(50))), read_numpy_pickle, False
    ),
    "configuration": _Format(
        ".json", lambda path: path.write_text(json.dumps({"a": [1, 2, {"b": "c"}], "d": 4})), read_json, False
    ),
}
