"""The pages name files that exist, and what programs of pages and docstrings print is what they print."""

import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrel
from jaxrel.cli.parser import parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMED = re.compile(r"\b(?:tests|benchmarks|docs|jaxrel|examples)/[\w./-]+\.(?:py|md|json|png)\b")
NUMBER = re.compile(r"\d+\.\d+")
LINKED = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def _documented() -> dict[str, Any]:
    """Public functions and classes with an example, by name; `doctest` does not find those that are decorated."""
    packages = [
        jaxrel,
        *(
            importlib.import_module(f"jaxrel.{part.name}")
            for part in pkgutil.iter_modules(jaxrel.__path__)
            if part.ispkg
        ),
    ]
    public = (getattr(package, name) for package in packages for name in getattr(package, "__all__", ()))
    return {each.__name__: each for each in public if ">>>" in (inspect.getdoc(each) or "")}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "task_relatedness")) for name in sorted(_documented())],
)
def test_examples_of_docstrings(name):
    documented = _documented()[name]
    module = inspect.getmodule(inspect.unwrap(documented))
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(documented), dict(vars(module)), name, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text()
    files = {ROOT / name for name in NAMED.findall(text)} | {page.parent / name for name in LINKED.findall(text)}
    assert not [str(file) for file in files if not file.exists()]


@dataclass
class Block:
    """A block of a page between fences: its language, and what it says."""

    language: str
    text: str
    skipped: bool  # by a comment before it, such as <!-- not run: needs a cluster -->


def blocks_of(page: Path) -> list[Block]:
    found = re.finditer(
        r"^(<!-- not run: [^\n]+ -->\n+)?```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [Block(match[2], match[3], match[1] is not None) for match in found]


def has_programs(page: Path) -> bool:
    return any(block.language == "python" and not block.skipped for block in blocks_of(page))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_programs(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_programs_of_a_page_print_what_it_says(page, capsys, monkeypatch, tmp_path):
    """Numbers to 0.02, as compilers round differently while something is learned."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = ""
    for block in blocks_of(page):
        if block.language == "python" and not block.skipped:
            exec(block.text, names)
            printed = capsys.readouterr().out
        elif not block.language and not block.skipped:
            assert NUMBER.split(printed) == NUMBER.split(block.text)
            found, said = (np.array(NUMBER.findall(text), float) for text in (printed, block.text))
            np.testing.assert_allclose(found, said, atol=0.02)
            printed = ""


def commands_of_pages() -> list[Any]:
    found = {}
    for page in PAGES:
        text = "".join(block.text for block in blocks_of(page) if block.language == "sh").replace("\\\n", " ")
        for line in text.splitlines():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if words[:1] == ["jaxrel"] and "..." not in line:
                found[f"{page.stem}: {' '.join(words)}"] = words[1:]
    return [pytest.param(words, id=name) for name, words in found.items()]


@pytest.mark.parametrize("words", commands_of_pages())
def test_the_command_lines_of_a_page_are_understood(words):
    """Options and names of commands; that they do what the page says is for its reader to see."""
    if "--help" not in words:
        parser().parse_args(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("rank_arrays.py", [], "strong"),
        ("explain_transfer.py", ["coupling.png"], "zebra"),
        ("rank_pictures.py", ["--demo", "out"], "colours"),
    ],
)
def test_the_examples_run(name, arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert said in capsys.readouterr().out
