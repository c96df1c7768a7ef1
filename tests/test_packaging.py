"""What is published: a source distribution, the wheel that is built from it, the command that the wheel installs."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

from jaxrel import __version__

NAME = f"jaxrel-{__version__}"


def _python(*arguments: str | Path, folder: Path, **environment: str) -> str:
    """What Python prints to its standard output, run in this folder and without the repository on its path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    command = [sys.executable, *map(str, arguments)]
    ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    _python("-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    source, wheel = folder / f"{NAME}.tar.gz", folder / f"{NAME}-py3-none-any.whl"
    assert {*folder.iterdir()} == {source, wheel}
    return source, wheel


def _package() -> set[str]:
    kinds = ("py", "js", "css")
    files = {path.relative_to(ROOT).as_posix() for kind in kinds for path in ROOT.glob(f"jaxrel/**/*.{kind}")}
    return files | {"jaxrel/py.typed"}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    with zipfile.ZipFile(distributions[1]) as wheel:
        assert {*wheel.namelist()} == _package() | about | {f"{NAME}.dist-info/licenses/LICENSE"}


@pytest.mark.slow
def test_the_source_distribution_holds_the_package_and_its_pages(distributions):
    pages = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "THIRD_PARTY.md"}
    build = {"pyproject.toml", ".gitignore", "PKG-INFO"}
    with tarfile.open(distributions[0]) as source:
        assert {name.removeprefix(f"{NAME}/") for name in source.getnames()} == _package() | pages | build


@pytest.mark.slow
def test_metadata_are_whole_and_the_readme_renders(distributions, tmp_path):
    _python("-m", "twine", "check", "--strict", *distributions, folder=tmp_path)
    with zipfile.ZipFile(distributions[1]) as wheel:
        said = email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
    assert (said["Version"], said["License-Expression"], said["License-File"]) == (__version__, "Apache-2.0", "LICENSE")
    links = {link.split(",")[0] for link in said.get_all("Project-URL", [])}
    assert links == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}


@pytest.mark.slow
def test_the_installed_command_starts_outside_of_the_repository(distributions, tmp_path):
    site = tmp_path / "site"
    options = ("--quiet", "--no-index", "--no-deps", "--target")
    _python("-m", "pip", "install", *options, site, distributions[1], folder=tmp_path)
    environment = {"PYTHONPATH": str(site), "JAXREL_CACHE": str(tmp_path / "cache")}
    where = _python("-c", "import jaxrel; print(jaxrel.__file__)", folder=tmp_path, **environment)
    assert Path(where.strip()) == site / "jaxrel" / "__init__.py"
    assert "rank" in _python("-m", "jaxrel", "--help", folder=tmp_path, **environment)
    assert _python(site / "bin" / "jaxrel", "--version", folder=tmp_path, **environment) == f"jaxrel {__version__}\n"


def test_the_citation_is_of_this_version():
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [__version__]
