"""Encoders of modules of PyTorch and models of transformers, where these are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from originals import relative_error

from jaxrel import Task, transferability_score
from jaxrel.data import Word
from jaxrel.encoders import Preprocessing, extract_features, from_function, from_torch, from_transformers

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 40, 48, 3), np.uint8)
TEXTS = ["hello world", "a", "a longer text than the others are.", "b b"]
PREPROCESSING = Preprocessing(32, (120.0,) * 3, (60.0,) * 3)


def test_importing_jaxrel_does_not_import_torch() -> None:
    code = "import sys, jaxrel.study, jaxrel.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def torch() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


@pytest.fixture
def network(torch: Any) -> Any:
    """One that writes into its input, with normalisation and dropout, in training mode."""
    nn = torch.nn

    class Flattened(nn.Module):  # type: ignore[name-defined]
        def forward(self, x: Any) -> Any:
            return x.view(len(x), -1).view(x.shape).relu_()

    return nn.Sequential(
        Flattened(),
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
    )


def called(torch: Any, network: Any) -> np.ndarray:
    batch = torch.from_numpy(np.array(PREPROCESSING(IMAGES))).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return np.asarray(network.eval()(batch.to(network[1].weight.dtype)).float())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_a_module_gives_what_it_gives_when_it_is_called(torch: Any, network: Any, dtype: str, tolerance: float) -> None:
    network = network.to(getattr(torch, dtype))
    encoder = from_torch(network, PREPROCESSING, name="net")
    assert network.training
    assert (encoder.feature_width, encoder.num_parameters, encoder.image_size) == (32, 3 * 8 * 9 + 8 + 2 * 8, 32)
    features = extract_features(encoder, IMAGES, batch_size=4)
    assert features.dtype == np.float32
    assert relative_error(features, called(torch, network)) < tolerance


def test_a_module_is_taken_as_it_is_now(torch: Any, network: Any) -> None:
    encoder = from_torch(network, PREPROCESSING, name="net")
    before = np.asarray(encoder(IMAGES).features)
    network[1].weight.data *= 2
    np.testing.assert_array_equal(encoder(IMAGES).features, before)
    changed = from_torch(network, PREPROCESSING, name="net")
    half = from_torch(network.bfloat16(), PREPROCESSING, name="net")
    dropped = from_torch(network[:-1], PREPROCESSING, name="net")
    assert len({each.fingerprint for each in (encoder, changed, half, dropped)}) == 4
    assert from_torch(network, PREPROCESSING, name="net").fingerprint == half.fingerprint
    module = type(network[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forward", lambda self, x: x)
        assert from_torch(network, PREPROCESSING, name="net").fingerprint != half.fingerprint
    network[2].running_mean[0] = torch.inf
    with pytest.raises(ValueError, match=r"variable \['2.running_mean .*holds NaN or infinity"):
        from_torch(network, PREPROCESSING, name="net")


def test_a_module_that_takes_no_such_images_is_refused(network: Any) -> None:
    with pytest.raises(ValueError, match=r"net fails with an example .*to have 3 channels, but got 1"):
        from_torch(network, Preprocessing(32, (0.0,), (1.0,)), name="net")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_function_may_give_tensors_with_gradient(torch: Any, dtype: str) -> None:
    weight = torch.randn(3, 4, dtype=getattr(torch, dtype), requires_grad=True)
    encoder = from_function(
        lambda images: torch.from_numpy(images).to(weight.dtype).mean((1, 2)) @ weight, name="mine", version="1"
    )
    expected = IMAGES.mean((1, 2)) @ weight.detach().float().numpy()
    assert relative_error(encoder(IMAGES).features, expected) < 2e-2


def test_a_task_takes_bfloat16(torch: Any) -> None:
    features, labels = torch.randn(60, 8).bfloat16().requires_grad_(), torch.arange(60) % 2
    labels_too = np.asarray(labels)
    expected = transferability_score(Task(features.detach().float().numpy(), labels_too))
    assert transferability_score(Task(features, labels)).value == expected.value


# Models of transformers


@pytest.fixture
def transformers(torch: Any) -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def tokenizer(transformers: Any, tmp_path: Path) -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return transformers.BertTokenizerFast.from_pretrained(tmp_path)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def bert(transformers: Any) -> Any:
    return transformers.BertModel(transformers.BertConfig(vocab_size=58, max_position_embeddings=64, **SMALL))


@pytest.fixture
def vit(transformers: Any) -> Any:
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))


@pytest.fixture
def images(transformers: Any) -> Any:
    return transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})


def pooled(output: Any, pooling: str) -> np.ndarray:
    hidden = output.last_hidden_state
    return np.asarray({"mean": hidden.mean(1), "cls": hidden[:, 0], "pooler": output.pooler_output}[pooling])


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_texts_have_the_features_that_each_has_alone(torch: Any, bert: Any, tokenizer: Any, pooling: Any) -> None:
    encoder = from_transformers(bert, tokenizer, name="bert", pooling=pooling, max_length=64)
    assert (encoder.modality, encoder.feature_width) == ("texts", 16)
    with torch.no_grad():
        outputs = [bert.eval()(**tokenizer(text, return_tensors="pt")) for text in TEXTS]
    expected = np.concatenate([pooled(output, pooling) for output in outputs])
    assert relative_error(extract_features(encoder, TEXTS, batch_size=3), expected) < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_images_have_the_features_of_the_model(torch: Any, vit: Any, images: Any, pooling: Any) -> None:
    encoder = from_transformers(vit, images, name="vit", pooling=pooling)
    with torch.no_grad():
        expected = pooled(vit.eval()(**images(list(IMAGES), return_tensors="pt")), pooling)
    assert relative_error(extract_features(encoder, IMAGES, batch_size=4), expected) < 1e-5
    half = from_transformers(vit.bfloat16(), images, name="vit", pooling=pooling)
    assert relative_error(extract_features(half, IMAGES, batch_size=4), expected) < 3e-2


def test_pairs_of_texts_have_the_features_that_each_has_alone(torch: Any, bert: Any, tokenizer: Any) -> None:
    pairs = [("ab", "and more"), ("", "b"), ("more", "")]
    encoder = from_transformers(bert, tokenizer, name="bert", pooling="mean", max_length=64)
    with torch.no_grad():
        outputs = [bert.eval()(**tokenizer([first], [second], return_tensors="pt")) for first, second in pairs]
    expected = np.concatenate([pooled(output, "mean") for output in outputs])
    assert relative_error(extract_features(encoder, pairs, batch_size=2), expected) < 1e-5
    with pytest.raises(ValueError, match="samples of bert are words in sentences, which it does not take"):
        encoder([Word(("ab",), 0)])


def test_texts_are_cut_off(bert: Any, tokenizer: Any) -> None:
    encoder = from_transformers(bert, tokenizer, name="bert", pooling="mean", max_length=4)
    features = np.asarray(encoder(["ab and more", "ab and less"]).features)
    np.testing.assert_array_equal(features[0], features[1])


def test_the_fingerprint_is_of_model_and_processor(bert: Any, tokenizer: Any, vit: Any, images: Any) -> None:
    def printed(model: Any, processor: Any, **options: Any) -> str:
        options = {"name": "n", "pooling": "mean"} | options
        return from_transformers(model, processor, **options).fingerprint

    first = printed(bert, tokenizer, max_length=8)
    tokenizer(TEXTS, padding="max_length", max_length=12)  # which the tokenizer remembers
    assert printed(bert, tokenizer, max_length=8) == first
    assert (
        len({first, printed(bert, tokenizer, max_length=9), printed(bert, tokenizer, max_length=8, pooling="cls")}) == 3
    )
    tokenizer.add_tokens(["hello"])
    assert printed(bert, tokenizer, max_length=8) != first
    of_images = printed(vit, images)
    images.image_mean = [0.4, 0.5, 0.5]
    assert printed(vit, images) != of_images


def test_what_cannot_be_pooled_is_refused(transformers: Any, vit: Any, images: Any, tokenizer: Any) -> None:
    bare = transformers.ViTModel(vit.config, add_pooling_layer=False)
    with pytest.raises(ValueError, match=r"gives last_hidden_state and no pooler_output, .*choose another pooling"):
        from_transformers(bare, images, name="vit", pooling="pooler")
    with pytest.raises(ValueError, match="pooling is 'max': choose from mean, cls, pooler"):
        from_transformers(vit, images, name="vit", pooling="max")
    with pytest.raises(ValueError, match=r"are a BaseModelOutputWithPooling of last_hidden_state, pooler_output"):
        from_torch(vit, PREPROCESSING, name="vit")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic")
    convolutions = transformers.ResNetModel(config)
    assert from_transformers(convolutions, images, name="resnet", pooling="pooler").feature_width == 6
    with pytest.raises(ValueError, match=r"have shape \(2, 4, 4\), expected \(2, d\)"):
        from_transformers(convolutions, images, name="resnet", pooling="mean")
    images.model_input_names = ["input_ids", "pixel_values"]
    with pytest.raises(ValueError, match=r"makes input_ids, pixel_values: pass one .* such as processor.tokenizer"):
        from_transformers(vit, images, name="clip", pooling="mean")
