"""Pairs of texts and words in sentences: parity with transformers, tokens, views, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
from fixtures.make_pair_oracles import NAMES, PAIRS, SENTENCES
from fixtures.make_text_oracles import oracle_tensors
from flax import nnx
from originals import relative_error, write_checkpoint
from paths import FIXTURES
from tiny_texts import tiny_tokenizer

from jaxrel.data import Word
from jaxrel.encoders import TextAugmentation, TextView, extract_features, extract_layers, from_function
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.samples import samples_fingerprint
from jaxrel.encoders.texts import glove_encoder, load_text_encoder, text_encoder
from jaxrel.storage.features import FeatureStore


def words_of(*sentences: tuple[str, ...]) -> list[Word]:
    return [Word(sentence, position) for sentence in sentences for position in range(len(sentence))]


WORDS = words_of(*SENTENCES)


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "pair_oracles.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def folder_of(oracles, tmp_path):
    """Writes the folder of a network with its tokenizer."""

    def write(name: str, **options: Any) -> Path:
        folder = write_checkpoint(tmp_path / name, oracles, name, oracle_tensors, **options)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_text(str(oracles[f"{name}/{file}"]))
        return folder

    return write


# Parity


@pytest.mark.parametrize("name", NAMES)
def test_float64_parity_with_transformers(name, oracles, folder_of, x64):
    encoder = load_text_encoder(folder_of(name), dtype=np.float64)
    assert relative_error(encoder(PAIRS).features, oracles[f"{name}/pairs"]) < 1e-9
    assert relative_error(encoder(WORDS).features, oracles[f"{name}/words"]) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_float32_parity_with_transformers(name, oracles, folder_of):
    encoder = load_text_encoder(folder_of(name))
    assert relative_error(extract_features(encoder, PAIRS, batch_size=4), oracles[f"{name}/pairs"]) < 1e-5
    assert relative_error(extract_features(encoder, WORDS, batch_size=4), oracles[f"{name}/words"]) < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"])
def test_every_pooling_of_a_word_is_the_state_of_its_first_token(pooling, oracles, folder_of):
    encoder = load_text_encoder(folder_of("bert"), pooling=pooling)
    assert relative_error(encoder(WORDS).features, oracles["bert/words"]) < 1e-5


@pytest.mark.parametrize("samples", [PAIRS, WORDS])
def test_layers_of_one_pass_are_those_of_each(samples, folder_of):
    encoder = load_text_encoder(folder_of("bert"))
    for layer, features in enumerate(extract_layers(encoder, [0, 1, 2], samples)):
        alone = load_text_encoder(folder_of("bert"), layer=layer)
        np.testing.assert_allclose(features, alone(samples).features, rtol=1e-4, atol=1e-5)


# Tokens


def test_tokens_of_a_pair_are_of_the_type_of_their_text(folder_of):
    tokens = load_text_encoder(folder_of("bert")).prepare([("sea", "sky blue"), ("sky", "")])
    np.testing.assert_array_equal(tokens.ids[:, :7], [[2, 5, 3, 6, 8, 3, 0], [2, 6, 3, 3, 0, 0, 0]])
    np.testing.assert_array_equal(tokens.types[:, :7], [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]])
    assert tokens.pooled is None


def test_a_network_of_one_type_takes_all_tokens_to_be_of_it(folder_of):
    encoder = load_text_encoder(folder_of("roberta"))
    tokens = encoder.prepare(PAIRS)
    others = tokens._replace(types=np.ones_like(tokens.types))
    np.testing.assert_array_equal(encoder.forward(others).features, encoder.forward(tokens).features)


def test_a_tokenizer_may_say_that_its_network_has_no_types(folder_of):
    folder = folder_of("bert")
    typed = load_text_encoder(folder, name="bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    encoder = load_text_encoder(folder, name="bert")
    tokens = typed.prepare(PAIRS)
    without = typed.forward(tokens._replace(types=np.zeros_like(tokens.types))).features
    np.testing.assert_allclose(encoder(PAIRS).features, without, rtol=1e-5, atol=1e-5)
    assert np.abs(typed(PAIRS).features - without).max() > 1e-2
    assert encoder.fingerprint != typed.fingerprint
    assert encoder.layers.at(1).fingerprint != typed.layers.at(1).fingerprint


def test_a_prompt_precedes_the_first_text_of_a_pair_and_the_words_of_a_sentence(folder_of):
    folder = folder_of("bert")
    plain, prompted = load_text_encoder(folder), load_text_encoder(folder, prompt="blue side ")
    with_prompt = [(f"blue side {first}", second) for first, second in PAIRS]
    np.testing.assert_array_equal(prompted(PAIRS).features, plain(with_prompt).features)
    longer = [Word(("blue", "side", *sentence), position + 2) for sentence, position in WORDS]
    np.testing.assert_array_equal(prompted(WORDS).features, plain(longer).features)


def test_a_prompt_that_is_not_pooled_is_seen_all_the_same():
    seen = []

    class Network(nnx.Module):
        def __call__(self, ids: Any, mask: Any, types: Any = None, pooled: Any = None) -> EncoderOutput:
            seen.append((types is not None, pooled is not None))
            return EncoderOutput((ids * (mask if pooled is None else pooled)).sum(1, keepdims=True) * 1.0, None)

    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    encoder = text_encoder(Network(), tokenizer, name="sums", max_length=8, prompt="w1 w2 ", pools_prompt=False)
    # [CLS] is 2 and in front of the prompt, [SEP] is 3, and w0 is 4.
    assert encoder(["w3 w4"]).features == 7 + 8 + 3
    assert encoder([("w3", "w4")]).features == 7 + 3 + 8 + 3
    assert encoder([Word(("w3", "w4"), 1)]).features == 8
    assert encoder([Word(tuple(f"w{number}" for number in range(20)), 19)]).features == 23
    pooled = text_encoder(Network(), tokenizer, name="sums", max_length=8, prompt="w1 w2 ")
    assert pooled(["w3 w4"]).features == 2 + 5 + 6 + 7 + 8 + 3
    assert pooled.fingerprint != encoder.fingerprint
    assert seen[1:3] == [(False, True), (True, True)]  # one program for texts and words


@pytest.mark.parametrize(("length", "max_length"), [(3, 8), (9, 8), (40, 8), (40, 4), (25, 16)])
def test_every_word_of_a_long_sentence_is_in_a_window_that_has_what_is_before_it(length, max_length):
    class Network(nnx.Module):
        def __call__(self, ids: Any, mask: Any, types: Any = None, pooled: Any = None) -> EncoderOutput:
            pooled = mask if pooled is None else pooled
            return EncoderOutput(jax.numpy.stack([(ids * pooled).sum(1), mask.sum(1), pooled.argmax(1)], 1) * 1.0, None)

    encoder = text_encoder(Network(), tiny_tokenizer(), name="ids", max_length=max_length)
    sentence = tuple(f"w{number % 30}" for number in range(length))
    ids, counts, places = np.asarray(encoder(words_of(sentence)).features).T
    np.testing.assert_array_equal(ids, [number % 30 + 4 for number in range(length)])
    assert counts.max() <= max_length
    before = np.minimum(np.arange(length), (max_length - 2) // 2)  # all of the first window, half of a later one
    assert (places - 1 >= before).all()


def test_a_split_word_is_the_first_of_its_tokens_even_at_the_end_of_a_window(folder_of):
    encoder = load_text_encoder(folder_of("bert"), max_length=6)
    sentence = ("sea", "sea", "sea", "seaside", "seaside", "sky")  # "sea" and "##side", which the first window lacks
    tokens = encoder.prepare(words_of(sentence))
    assert [int(row[pooled][0]) for row, pooled in zip(tokens.ids, tokens.pooled, strict=True)] == [5, 5, 5, 5, 5, 6]
    np.testing.assert_array_equal(tokens.pooled.sum(1), 1)


# What is refused


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([("sea", "sky"), "sea"], "one kind, got a pair at position 0 and a text at position 1"),
        ([("sea", "sky", "blue")], "got tuple at position 0"),
        ([["sea", "sky"]], "got list at position 0"),
        ([("sea", 3)], "got tuple at position 0"),
        ([Word(("sea",), 1)], r"got Word\(sentence=\('sea',\), position=1\) at position 0"),
        ([Word(["sea"], 0)], r"got Word\(sentence=\['sea'\], position=0\) at position 0"),
        ([Word("sea", 0)], r"got Word\(sentence='sea', position=0\) at position 0"),
        ([Word(("sea", 3), 0)], r"got Word\(sentence=\('sea', 3\), position=0\) at position 0"),
        ([("sea", "\ud800")], "position 0 is not valid Unicode"),
        (words_of(("sea", "\u200d")), "leaves nothing of the word '.*' in 'sea .*': remove this word"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, says, folder_of):
    encoder = load_text_encoder(folder_of("bert"))
    with pytest.raises(ValueError, match=says):
        encoder(samples)
    with pytest.raises(ValueError, match=says):
        extract_features(encoder, samples)


class Plain(nnx.Module):
    """A network of texts alone."""

    def __call__(self, ids: Any, mask: Any) -> EncoderOutput:
        return EncoderOutput((ids * mask).sum(1, keepdims=True) * 1.0, None)


ENCODERS: dict[str, Callable[[], Any]] = {
    "glove": lambda: glove_encoder(np.eye(2, dtype=np.float32), ["sea", "sky"], name="glove"),
    "own": lambda: from_function(
        lambda texts: [[len(text)] for text in texts], name="own", version="1", modality="texts"
    ),
    "plain": lambda: text_encoder(Plain(), tiny_tokenizer(), name="plain", max_length=9),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_texts_alone_refuse_pairs_and_words(name):
    encoder = ENCODERS[name]()
    with pytest.raises(ValueError, match=f"samples of {name} are pairs of texts.*leave out pair=True, --pair"):
        extract_features(encoder, PAIRS)
    with pytest.raises(ValueError, match=f"samples of {name} are words in sentences, which it does not take: choose"):
        extract_features(encoder, WORDS)


def test_a_network_that_pools_all_refuses_a_prompt_that_is_not_pooled():
    with pytest.raises(ValueError, match=r"plain does not take pooled, .*: pass pools_prompt=True"):
        text_encoder(Plain(), tiny_tokenizer(), name="plain", max_length=9, prompt="w1 ", pools_prompt=False)


def test_a_pooler_is_not_of_words(folder_of):
    encoder = load_text_encoder(folder_of("bert"), pooling="pooler")
    assert encoder(PAIRS).features.shape == (len(PAIRS), 24)
    with pytest.raises(ValueError, match="the pooler is of the first token alone: choose pooling='mean' or 'cls'"):
        encoder(WORDS)


def test_a_length_without_room_for_a_pair_is_refused(folder_of):
    encoder = load_text_encoder(folder_of("roberta"), max_length=4)
    assert np.isfinite(encoder(["sea"]).features).all()
    with pytest.raises(ValueError, match="max_length is 4: pass more than the 4 special tokens of a pair"):
        encoder(PAIRS)


# Functions of one's own, stores, views


@pytest.mark.parametrize(("kind", "samples"), [("pair", PAIRS), ("word", WORDS)])
def test_a_function_of_one_kind_has_samples_of_it(kind, samples):
    def features(batch: list[Any]) -> list[list[float]]:
        assert isinstance(batch, list)
        return [[len(first), 1.0 + len(str(second))] for first, second in batch]

    encoder = from_function(features, name="own", version="1", modality="texts", kind=kind)
    expected = [[len(first), 1 + len(str(second))] for first, second in samples]
    np.testing.assert_array_equal(extract_features(encoder, samples, batch_size=4), expected)
    with pytest.raises(ValueError, match="samples of own are texts, of which it takes none"):
        encoder(["sea"])
    for other in ({"kind": "triple", "modality": "texts"}, {"kind": "pair"}):
        with pytest.raises(ValueError, match=r"kind is .*: for texts choose from text, pair, word"):
            from_function(features, name="own", version="1", **other)


def test_a_store_tells_pairs_words_and_texts_apart(folder_of, tmp_path):
    encoder, store = load_text_encoder(folder_of("bert")), FeatureStore(tmp_path / "store")
    several: list[list[Any]] = [
        [("sea", "sky"), ("sky", "blue")],
        [("sea", "skysky"), ("blue", "")],  # of the same letters
        ["sea\nsky", "sky\nblue"],
        ["sea", "sky", "sky", "blue"],
        words_of(("sea", "sky")),
        [Word(("sea", "sky"), 1), Word(("sea", "sky"), 0)],
    ]
    assert len(set(map(samples_fingerprint, several))) == len(several)
    tables = [extract_features(encoder, samples, store=store) for samples in several]
    assert len({table.folder for table in tables}) == len(several)
    for table, samples in zip(tables, several, strict=True):
        np.testing.assert_allclose(np.asarray(table), encoder(samples).features, rtol=1e-4, atol=1e-5)


def test_a_shard_of_the_same_word_has_the_same_features(folder_of):
    encoder = load_text_encoder(folder_of("bert"))
    features = extract_features(encoder, [WORDS[3]] * 8, batch_size=4)
    np.testing.assert_allclose(features, features[[0] * 8], rtol=1e-5)


def test_views_change_each_text_of_a_pair_and_keep_a_word():
    sentence = tuple(map(str, range(30)))
    pairs, words = [(" ".join(sentence), "a b c d e f g h i j")] * 20, words_of(sentence)
    view: Any = TextView(0, TextAugmentation(least_kept=0.3, deletion=0.3))
    first, second = map(set, zip(*view(pairs), strict=True))
    assert min(len(first), len(second)) > 10
    for (kept, position), word in zip(view(words), words, strict=True):
        assert kept[position] == sentence[word.position]
        assert set(kept) < set(sentence)
        assert list(kept) == sorted(kept, key=int)
    run: Any = TextView(0, TextAugmentation(least_kept=0.5, deletion=0.0))
    assert {len(kept) for kept, _ in run(words)} <= set(range(15, 31))
    whole = TextView(0, TextAugmentation(least_kept=1.0, deletion=0.0))
    assert whole(words) == tuple(words)
    assert whole([("a b", "c")]) == (("a b", "c"),)
