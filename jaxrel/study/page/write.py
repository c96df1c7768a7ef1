"""Writes pages of results to files."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrel.storage.records import write_atomically
from jaxrel.study.documents import file_at, origin_of
from jaxrel.study.page.confusions import confusions_of
from jaxrel.study.page.content import Part
from jaxrel.study.page.document import GENERATOR, document_of
from jaxrel.study.page.rankings import part_of_ranking
from jaxrel.study.page.scoreboards import part_of_scoreboard
from jaxrel.study.page.studies import part_of_study
from jaxrel.study.page.verifications import part_of_verification
from jaxrel.study.ranking.table import Ranking
from jaxrel.study.results import Results
from jaxrel.study.scoreboard.board import Scoreboard
from jaxrel.study.sources import Source
from jaxrel.study.verification.result import Verification

__all__ = ["FILE", "check_output", "write_page"]

FILE = "report.html"
_LICENCE = (
    "Vega, Vega-Lite and Vega-Embed, https://vega.github.io: Copyright University of Washington Interactive Data Lab "
    "and contributors, BSD-3-Clause"
)

Result = Ranking | Results | Scoreboard | Verification


def write_page(
    path: Path | str,
    *results: Result,
    sources: Iterable[Source] = (),
    charts: bool = True,
    command: Sequence[str] = (),
    origins: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write results to an HTML file that opens in any browser, without a network.

    Args:
        path: the file, which is replaced, or a folder for `report.html`.
        results: at least one.
        sources: data sets of the study, for the classes that the best encoder of each target confuses most and for
            samples of these, if they are images.
        charts: whether to include charts, which add about a megabyte to the file.
        command: the arguments of the command line that made it, if any.
        origins: origins of the files from which the results were read, if any.

    Returns:
        The file.

    Raises:
        ValueError: there is no result, or the path is an existing file that is not a page of jaxrel.
        OSError: it cannot be written.
    """
    if not results:
        raise ValueError("there is nothing to show: pass at least one result, such as what jaxrel.study.rank returns.")
    path = file_at(path, FILE)
    _check(path)
    parts = list(map(_part, results))
    made = [origin_of(command), *origins]
    content = document_of(parts, confusions_of(parts, sources), made, **_charts(wanted=charts))
    write_atomically(path, content.encode())
    return path


def check_output(folder: Path) -> None:
    """Raise ValueError if a page would replace a file that is not a page of jaxrel."""
    _check(folder / FILE)


def _check(path: Path) -> None:
    if path.is_file() and GENERATOR.encode() not in path.read_bytes()[:4096]:
        raise ValueError(f"{path} was not written by jaxrel, and would be replaced: move it, or pass another folder.")


def _part(result: Result) -> Part:
    match result:
        case Ranking():
            return part_of_ranking(result)
        case Results():
            return part_of_study(result)
        case Scoreboard():
            return part_of_scoreboard(result)
        case Verification():
            return part_of_verification(result)


def _charts(*, wanted: bool) -> dict[str, str]:
    """The library that draws charts, or the reason why there is none."""
    if not wanted:
        return {"why": "No charts were requested."}
    if importlib.util.find_spec("vl_convert") is None:
        return {
            "why": "Charts need vl-convert-python: pip install 'jaxrel[page]', then run `jaxrel report` on this folder."
        }
    return {"library": _library()}


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of a page."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"/*! {_LICENCE} */\n" + bundle.replace("</script", r"<\/script")
