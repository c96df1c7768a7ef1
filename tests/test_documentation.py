"""The pages name files that exist, and what programs of pages and docstrings print is what they print."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrel

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
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


@pytest.mark.slow
def test_the_programs_of_the_readme_print_what_it_says(capsys, monkeypatch, tmp_path):
    """Numbers to 0.02, as compilers round differently while something is learned."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    printed, checked = "", 0
    for language, block in blocks:
        if language == "python":
            exec(block, names)
            printed = capsys.readouterr().out
        elif not language:
            assert NUMBER.split(printed) == NUMBER.split(block)
            found, said = (np.array(NUMBER.findall(text), float) for text in (printed, block))
            np.testing.assert_allclose(found, said, atol=0.02)
            printed, checked = "", checked + 1
    assert checked >= 5
