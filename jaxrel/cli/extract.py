"""`jaxrel extract`: features of a data set under encoders, into the store that `jaxrel rank` reads."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxrel import data, encoders, study
from jaxrel._core.printable import printable
from jaxrel.cli import console
from jaxrel.cli.running import executor
from jaxrel.storage.features import FeatureStore, StoreError, Table
from jaxrel.study import Progress
from jaxrel.study.documents import SCHEMA
from jaxrel.study.engine import Part, run_parts
from jaxrel.study.sources import silent

if TYPE_CHECKING:
    from jax.sharding import Mesh

__all__ = ["extract", "listed", "run"]

_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> str:
    """Extract features or list the store; returns what is missing."""
    if options.output is None:
        options.output = study.feature_store().root
    if options.list:
        _show(listed(FeatureStore(options.output)), _LISTED, options)
        return ""
    if not (options.encoder and options.data):
        raise ValueError("no encoder or no data set was passed: pass --encoder and --data, or --list.")
    with console.narrator(quiet=options.quiet) as progress:
        records = list(extract(options, progress))
    _show([record for record in records if "failure" not in record], _EXTRACTED, options)
    return "; ".join(record["failure"] for record in records if "failure" in record)


def listed(store: FeatureStore) -> list[dict[str, Any]]:
    """A record of each table of a store, sorted by data set, split and encoder; all shards are checked.

    Raises:
        StoreError: a newer jaxrel has made one of the tables.
    """
    records = [_listed(table) for table in store.tables()]
    return sorted(records, key=lambda record: [str(record[name]) for name in ("data", "split", "encoder", "folder")])


def _listed(table: Table) -> dict[str, Any]:
    missing = len(table.missing())
    return {
        **{name: table.provenance.get(name) for name in ("encoder", "data", "split")},
        "of": table.key.get("view") or "samples",
        "rows": len(table),
        "width": table.shape[1],
        "dtype": table.dtype.name,
        "shards": table.num_shards,
        "missing_shards": missing,
        "complete": missing == 0,
        "bytes": sum(path.stat().st_size for path in table.folder.rglob("*") if path.is_file()),
        "weights_sha256": table.provenance.get("weights_sha256"),
        "folder": str(table.folder),
    }


def extract(options: argparse.Namespace, progress: Progress) -> Iterator[dict[str, Any]]:
    """Extract the requested features, and yield a record of each table when it is complete.

    Unless the options are strict, a failure is a record that holds only "failure".

    Raises:
        ValueError: a name is unknown, or a number is out of range.
        DataError: the data set is not available.
        StoreError: the store cannot be written to.
    """
    for name in options.encoder:
        encoders.check_name(name)
    parts = _load(options)
    names = dict.fromkeys(options.encoder)
    with executor(options) as workers:
        if workers is None:
            for done, name in enumerate(names):
                progress("extracting", done, len(names))
                yield from _of_encoder(name, parts, options, progress)
            progress("extracting", len(names), len(names))
            return
        calls = [Part(f"features of {options.data} under {name}", _on_worker, (name, options)) for name in names]
        with contextlib.closing(run_parts(workers, calls)) as results:
            for done, (_, records) in enumerate(results, start=1):
                progress("extracting", done, len(calls))
                yield from records


def _load(options: argparse.Namespace) -> list[data.LabelledData]:
    """The requested splits."""
    return [
        data.load(
            options.data,
            split=split,
            path=options.data_path,
            limit=options.samples,
            official=options.official_splits,
            skip_broken=options.skip_broken,
            text_column=options.text_column,
            label_column=options.label_column,
            regression=options.regression,
            pair=options.pair,
        )
        for split in dict.fromkeys(options.split)
    ]


def _on_worker(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    return list(_of_encoder(name, _load(options), options, silent))


def _of_encoder(
    name: str, parts: Sequence[data.LabelledData], options: argparse.Namespace, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Extract the requested features under one encoder."""
    make_view = encoders.VIEWS[parts[0].modality]
    views = [None, *(make_view(number, seed=options.seed) for number in range(2) if options.views)]
    progress(f"{name}: loading", 0, 1)
    try:
        encoder = encoders.load(
            name, seed=options.seed, image_size=options.image_size, prompt=options.prompt, width=options.width
        )
        progress(f"{name}: loading", 1, 1)
        for part in parts:
            for view in views:
                yield _extracted(encoder, part, view, options, progress)
    except (MemoryError, StoreError):
        raise
    except Exception as error:
        if options.strict:
            raise
        _log.warning("%s: %s", name, error)
        yield {"failure": f"{name} failed: {error}" if progress is silent else f"{name} failed, as said above"}


def _extracted(
    encoder: encoders.Encoder,
    part: data.LabelledData,
    view: encoders.ImageView | encoders.TextView | None,
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    """Extract one table of features; returns its record."""
    which = "samples" if view is None else f"view {view.number + 1}"
    done: list[int] = []

    def note(number: int, total: int) -> None:
        done.append(number)
        progress(f"{encoder.name}: {part.name} ({part.split}, {which})", number, total)

    start = time.perf_counter()
    table = encoders.extract_features(
        encoder,
        part.samples,
        batch_size=options.batch_size,
        mesh=_all_devices(),
        store=FeatureStore(options.output),
        dtype=options.dtype,
        view=view,
        progress=note,
        data_fingerprint=part.fingerprint,
        provenance={"data": part.name, "split": part.split, "provider": part.provider},
    )
    seconds = time.perf_counter() - start
    extracted = len(table) - done[0]
    return {
        "encoder": encoder.name,
        "data": part.name,
        "split": part.split,
        "of": which,
        "rows": len(table),
        "width": table.shape[1],
        "dtype": table.dtype.name,
        "megabytes": table.nbytes / 1e6,
        "rows_extracted": extracted,
        "seconds": seconds,
        "rows_per_second": extracted / seconds,
        "folder": str(table.folder),
    }


def _all_devices() -> Mesh | None:
    """The devices of this process, if there are several."""
    import jax
    from jax.sharding import Mesh

    devices = jax.local_devices()
    return Mesh(devices, "devices") if len(devices) > 1 else None


Columns = Mapping[str, Callable[[dict[str, Any]], str]]

_SAMPLES: Columns = {
    "encoder": lambda record: record["encoder"] or "unknown",
    "data": lambda record: record["data"] or "unknown",
    "split": lambda record: record["split"] or "unknown",
    "of": lambda record: record["of"],
    "rows": lambda record: str(record["rows"]),
    "width": lambda record: str(record["width"]),
}
_EXTRACTED: Columns = {
    **_SAMPLES,
    "MB": lambda record: f"{record['megabytes']:.1f}",
    "seconds": lambda record: f"{record['seconds']:.1f}",
    "per second": lambda record: f"{record['rows_per_second']:.1f}" if record["rows_extracted"] else "kept",
}
_LISTED: Columns = {
    **_SAMPLES,
    "type": lambda record: record["dtype"],
    "shards": lambda record: "complete" if record["complete"] else f"{record['missing_shards']} missing",
    "MB": lambda record: f"{record['bytes'] / 1e6:.1f}",
    "folder": lambda record: record["folder"],
}


def _show(records: list[dict[str, Any]], columns: Columns, options: argparse.Namespace) -> None:
    """Print the records as JSON, or as a table."""
    if options.json:
        print(json.dumps({"schema": SCHEMA, "tables": records}, indent=1))
        return
    from rich.table import Table as Shown

    shown = Shown(*columns, box=None)
    for record in records:
        shown.add_row(*(printable(text(record)) for text in columns.values()))
    console.literal_console(width=1000).print(shown)  # wide, so that nothing is truncated
    if not options.quiet:
        console.literal_console(stderr=True).print(f"\nThe features are in {options.output}.", soft_wrap=True)
