"""Folders of small random CLIP checkpoints, with both towers and a tokenizer of few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
from fixtures.make_clip_oracles import CASES
from fixtures.make_vision_transformer_oracles import oracle_tensors


def tiny_clip_tokenizer(end: int, *, ends: bool = True) -> tokenizers.Tokenizer:
    """Each number below 40 a token, between 0 and, where the text ends by one, the token of the end."""
    vocabulary = {str(number): number for number in range(40)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="1"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"0 $A {end}" if ends else "0 $A", special_tokens=[("0", 0), (str(end), end)]
    )
    return tokenizer


def write_tiny_clip(
    folder: Path, oracles: dict[str, np.ndarray], case: str = "quick", *, dtype: Any = np.float32, **changes: Any
) -> Path:
    """The folder of a case, with changed tensors (None leaves one out)."""
    folder.mkdir(exist_ok=True)
    content = oracle_tensors(json.loads(str(oracles[f"{case}/shapes"]))) | changes
    kept = {name: value.astype(dtype) for name, value in content.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")
    (folder / "config.json").write_text(str(oracles[f"{case}/config"]))
    tiny_clip_tokenizer(CASES[case][1]).save(str(folder / "tokenizer.json"))
    return folder
