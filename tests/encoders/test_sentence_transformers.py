"""Folders of sentence-transformers: parity with it, prompts, widths, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fixtures.make_sentence_oracles import FOLDERS, SENTENCES
from fixtures.make_text_oracles import oracle_tensors
from originals import relative_error
from paths import FIXTURES

from jaxrel import encoders
from jaxrel.encoders.encoder import Encoder
from jaxrel.encoders.texts import load_text_encoder

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "named": {"prompt": "clustering"},
    "text": {"prompt": "w23 w24 "},
    "none": {"prompt": ""},
    "narrow": {"width": 6},
}


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "sentence_oracles.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def folder_of(oracles, tmp_path):
    """Writes one of the folders."""

    def write(name: str) -> Path:
        for place, text in json.loads(str(oracles[f"{name}/files"])).items():
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).write_text(text)
        for key, shapes in oracles.items():
            if key.startswith(f"{name}/shapes/"):
                tensors = oracle_tensors(json.loads(str(shapes)))
                weights = {tensor: values.astype(np.float32) for tensor, values in tensors.items()}
                safetensors.numpy.save_file(weights, tmp_path / key.removeprefix(f"{name}/shapes/"))
        return tmp_path

    return write


def change(path: Path, **changes: Any) -> None:
    """Other settings in a file of them; None leaves one out."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def expected_of(name: str, call: str, oracles: dict[str, np.ndarray]) -> np.ndarray:
    features = oracles[f"{name}/{call}"]
    # sentence-transformers leaves what it has cut off at the length that is left.
    return features / np.linalg.norm(features, axis=1, keepdims=True) if FOLDERS[name].get("normalise") else features


def float64_error(name: str, call: str, oracles: dict[str, np.ndarray], folder: Path) -> float:
    features = load_text_encoder(folder, dtype=np.float64, **OPTIONS[call])(SENTENCES).features
    assert features.dtype == np.float64
    return relative_error(features, expected_of(name, call, oracles))


@pytest.mark.parametrize("name", FOLDERS)
def test_features_are_those_of_sentence_transformers_in_float64(name, oracles, folder_of, x64):
    folder = folder_of(name)
    for call in ("default", "named", "text", "none"):
        assert float64_error(name, call, oracles, folder) < 1e-9


@pytest.mark.parametrize("name", ["mpnet-mean", "t5-dense", "llama-weighted"])
def test_the_first_features_are_of_unit_length_where_all_were(name, oracles, folder_of, x64):
    assert float64_error(name, "narrow", oracles, folder_of(name)) < 1e-9


@pytest.mark.parametrize("name", FOLDERS)
def test_features_are_those_of_sentence_transformers_in_float32(name, oracles, folder_of):
    encoder = encoders.load(str(folder_of(name)))
    assert relative_error(encoder(SENTENCES).features, expected_of(name, "default", oracles)) < 1e-5


def test_prompts_and_widths_are_parts_of_what_a_store_knows_features_by(folder_of):
    folder = str(folder_of("qwen3-last"))
    asked = [{}, {"prompt": ""}, {"prompt": "clustering"}, {"prompt": "w1 w2 "}, {"width": 6}, {"width": 7}]
    assert len({encoders.load(folder, **options).fingerprint for options in asked}) == len(asked)
    assert len({str(encoders.source_state(folder, **options)) for options in asked}) == len(asked)
    named, spelt = (encoders.load(folder, prompt=prompt) for prompt in ("query", "w20 w21 "))
    assert named.fingerprint == spelt.fingerprint == encoders.load(folder).fingerprint
    assert named.preprocessing.endswith("at most 64 tokens, after 'w20 w21 '")
    assert encoders.load(folder, width=6).feature_width == 6
    assert load_text_encoder(folder, pooling="lasttoken", normalise=True)(["w1"]).features.shape == (1, 16)


def test_a_layer_of_a_folder_of_sentence_transformers(folder_of):
    folder = folder_of("qwen3-last")
    first = encoders.load(f"{folder}#1")
    assert first.name == f"llama@{folder}#1"
    expected = load_text_encoder(folder, layer=1)(SENTENCES).features
    np.testing.assert_array_equal(first(SENTENCES).features, expected)
    assert np.abs(expected - load_text_encoder(folder)(SENTENCES).features).max() > 0.01


def test_lengths_are_those_of_the_folder(folder_of):
    folder = folder_of("mpnet-mean")
    assert lengths_of(load_text_encoder(folder)) == 12
    change(folder / "tokenizer_config.json", model_max_length=9)
    assert lengths_of(load_text_encoder(folder)) == 9
    change(folder / "sentence_bert_config.json", max_seq_length=7)
    assert lengths_of(load_text_encoder(folder)) == 7
    assert lengths_of(load_text_encoder(folder, max_length=5)) == 5


def lengths_of(encoder: Encoder) -> int:
    assert encoder.lengths is not None
    return int(encoder.lengths(["w1 " * 100])[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"prompt": "qeury"},
            r"'qeury' \(did you mean 'query'.*: the prompts of .* are clustering, document, query; pass",
        ),
        ({"width": 17}, "width is 17, but there are 16 features: pass a number from 1 to 16"),
        ({"width": 0}, "width is 0"),
        ({"pooling": "pooler"}, "'pooler': choose from mean, cls, max"),
        ({"family": "bert"}, "model_type is 'qwen3': only bert, roberta, xlm-roberta, distilbert are read as bert"),
        ({"family": "gpt"}, "family is 'gpt': choose from bert, modernbert, mpnet, t5, bart, llama"),
    ],
)
def test_options_that_do_not_fit_the_folder_are_refused(options, says, folder_of):
    with pytest.raises(ValueError, match=says):
        load_text_encoder(folder_of("qwen3-last"), **options)


@pytest.mark.parametrize("options", [{"prompt": "query: "}, {"width": 8}])
@pytest.mark.parametrize("name", ["pixels", "glove-6b-50d", "clip-text@folder"])
def test_what_has_no_prompts_and_widths_refuses_them(name, options):
    with pytest.raises(
        ValueError, match=r"does not take: leave it out, or pass one of bert, modernbert, .* with @CHECK"
    ):
        encoders.load(name, **options)


def dense(**changes: Any) -> tuple[str, dict[str, Any]]:
    return "2_Dense/config.json", changes


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (
            *dense(activation_function="torch.nn.modules.activation.GELU"),
            "activation torch.nn.modules.activation.GELU: ",
        ),
        (*dense(use_residual=True), "and a residual: only .* are read; make an encoder of the whole, .*from_function"),
        (*dense(in_features=17), "takes 17 features, but before it there are 16"),
        (*dense(out_features="12"), "in_features and out_features are .*'12'"),
        (*dense(out_features=11), r"'linear.weight' has shape \(16, 12\)"),
        (*dense(bias=False), "lacks: linear.bias"),
        (*dense(module_input_name="token_embeddings"), "module_input_name is 'token_embeddings'"),
        ("4_Normalize/config.json", {"module_output_name": "token_embeddings"}, "'token_embeddings', not sentence_emb"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls and mean: only one of mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode": "middle"}, "pools by middle: .*from_function"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "transformer_task is 'text-generation'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "other"}, "'other', which is none of clustering"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "expected texts by name"),
        ("tokenizer_config.json", {"add_eos_token": True}, None),
        ("config.json", {"model_type": "bart"}, "takes the states of the decoder: pass pooling='mean'"),
        ("config.json", {"model_type": "gpt2"}, "'gpt2': only bert.*qwen3 are read; make .*from_transformers"),
    ],
)
def test_folders_that_do_something_else_are_refused(file, changes, says, folder_of):
    folder = folder_of("t5-dense")
    change(folder / file, **changes)
    if says is None:
        load_text_encoder(folder)
        return
    with pytest.raises(ValueError, match=says):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["Transformer", "Pooling", "Dropout"], "has the modules Transformer, Pooling, Dropout: only Transformer,"),
        (["Transformer", "Pooling", "Normalize", "Dense"], "Normalize, Dense: .* make an encoder of the whole"),
        (["Transformer", "custom.Pooling"], "custom_st.custom.Pooling|custom.Pooling"),
        (["WordEmbeddings", "Pooling"], "WordEmbeddings, Pooling"),
    ],
)
def test_other_modules_are_refused_by_name(kinds, says, folder_of):
    folder = folder_of("t5-without-prompt")
    types = [kind if "." in kind else f"sentence_transformers.models.{kind}" for kind in kinds]
    listed = [{"type": kind, "path": f"{number}_Part"} for number, kind in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=says):
        load_text_encoder(folder)


def test_a_tokenizer_that_lacks_the_end_that_its_settings_ask_for_is_refused(folder_of):
    folder = folder_of("qwen3-last")
    change(folder / "tokenizer_config.json", add_eos_token=True)
    change(folder / "tokenizer.json", post_processor=None)
    with pytest.raises(ValueError, match=r"asks for a token at the end of texts, which the tokenizer\.json"):
        load_text_encoder(folder)


@pytest.mark.parametrize("flag", ["mean_tokens", "cls_token", "max_tokens", "lasttoken", "weightedmean_tokens"])
def test_the_flags_before_the_words_are_read(flag, folder_of):
    folder = folder_of("t5-without-prompt")
    path = folder / "1_Pooling" / "config.json"
    word = flag.removesuffix("_tokens").removesuffix("_token")
    change(path, pooling_mode=word, include_prompt=None)
    expected = load_text_encoder(folder)(SENTENCES).features
    change(path, pooling_mode=None, **{f"pooling_mode_{flag}": True, "pooling_mode_other": False})
    np.testing.assert_array_equal(load_text_encoder(folder)(SENTENCES).features, expected)


def test_layers_of_one_pass_keep_prompt_dense_layers_and_width(folder_of, oracles):
    name = next(name for name in FOLDERS if any("Dense" in key for key in oracles if key.startswith(f"{name}/shapes/")))
    folder = folder_of(name)
    whole = load_text_encoder(folder, prompt="w23 ", width=5)
    for layer, features in zip((2, 1), encoders.extract_layers(whole, (2, 1), SENTENCES), strict=True):
        alone = load_text_encoder(folder, prompt="w23 ", width=5, layer=layer)
        assert features.shape[1] == 5
        np.testing.assert_allclose(features, encoders.extract_features(alone, SENTENCES), rtol=1e-4, atol=1e-5)
