"""Lists of encoders to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrel import cli, encoders
from jaxrel.encoders.presets import PRESETS, expanded

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_list_has_encoders_of_one_kind_that_are_known(preset: str) -> None:
    names = expanded([f"@{preset}"])
    assert {encoders.modality(name) for name in names} == {preset.partition("-")[0]}
    assert len(names) == len(set(names)) == len(PRESETS[preset])


@pytest.mark.parametrize("preset", ["images-small", "texts-small"])
def test_the_facts_of_packaged_encoders_are_theirs(preset: str) -> None:
    for listed in PRESETS[preset]:
        if listed.name != "glove-6b-50d":  # 20 million numbers, which take a while
            encoder = encoders.load(listed.name)
            assert listed.parameters == pytest.approx(encoder.num_parameters / 1e6, abs=0.06)
            assert listed.licence in encoder.licence


def test_a_list_stands_for_its_encoders_once() -> None:
    small = [listed.name for listed in PRESETS["images-small"]]
    assert expanded(["squeezenet-1.1", "@images-small", "pixels"]) == ["squeezenet-1.1", *small]
    assert expanded(["pixels", "@images-small"]) == small
    assert expanded(["pixels", "pixels"]) == ["pixels", "pixels"]  # which is a mistake, and said elsewhere
    with pytest.raises(
        ValueError, match=r"no list '@images-smal' \(did you mean 'images-small'\?\): the lists are @im"
    ):
        expanded(["@images-smal"])


def test_the_command_line_takes_lists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["rank", "--target", "digits", "--encoder", "@texts"])
    assert "there is no list '@texts'" in capsys.readouterr().err
    assert cli.main(["rank", "--target", "digits", "--encoder", "@texts-small"]) == 2
    assert "'glove-6b-50d' encodes texts, 'digits' has images" in capsys.readouterr().err


def test_the_page_has_every_list() -> None:
    page = (ROOT / "docs" / "encoders.md").read_text()
    for preset, entries in PRESETS.items():
        for listed in entries:
            assert f"| `@{preset}` | `{listed.name}` | {listed.parameters:g} | {listed.licence} |" in page
