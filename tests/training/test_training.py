"""Linear probes and fine-tuning: what is learned, what is left alone, and what is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tiny_networks import halves, tiny_encoder

from jaxrel import encoders
from jaxrel.training import (
    FineTuning,
    LinearProbe,
    Partition,
    TunedNetwork,
    fine_tune,
    fine_tuning,
    fit_linear_probe,
    has_parameters,
    stratified_partition,
)

FAST = FineTuning(learning_rates=(1e-4, 1e-2), epochs=8, batch_size=16)


def started(encoder: encoders.Encoder, num_samples: int = 90) -> tuple[np.ndarray, np.ndarray, Partition, LinearProbe]:
    images, labels = halves(num_samples)
    partition = stratified_partition(labels, seed=0)
    probe = fit_linear_probe(np.asarray(encoder(images).features), labels, partition, num_classes=2)
    return images, labels, partition, probe


def tuned(encoder: encoders.Encoder, settings: FineTuning, seed: int = 0, **options: Any) -> TunedNetwork:
    images, labels, partition, probe = started(encoder)
    return fine_tune(encoder, images, labels, partition, probe=probe, settings=settings, seed=seed, **options)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.asarray(logits).argmax(axis=1) == labels))


def test_partitions_have_a_fifth_of_each_class() -> None:
    labels = np.repeat([0, 2, 3], [2, 50, 10])
    sizes = set()
    for seed in range(3):
        train, validation = stratified_partition(labels, seed=seed)
        assert sorted([*train, *validation]) == list(range(62))
        np.testing.assert_array_equal(np.bincount(labels[validation]), [1, 0, 10, 2])
        sizes.add(tuple(validation))
    assert len(sizes) == 3
    np.testing.assert_array_equal(
        stratified_partition(labels, seed=0).validation, stratified_partition(labels, seed=0)[1]
    )


def test_partitions_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="class 'cat' has 1 labelled sample, and at least 2 are needed"):
        stratified_partition(np.array([0, 0, 1]), seed=0, class_names=("dog", "cat"))
    with pytest.raises(ValueError, match="samples of 1 class: pass labelled samples of at least 2"):
        stratified_partition(np.zeros(9, int), seed=0)


def test_the_probe_is_logistic_regression_with_the_ridge_of_best_validation() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    features = rng.normal(size=(3, 5))[labels] + rng.normal(size=(80, 5)) + 7
    partition = stratified_partition(labels, seed=1)
    ridges = (0.02, 0.5)
    train, validation = partition
    centre, scale = features[train].mean(0), features[train].std(0)
    accuracies = []
    for ridge in ridges:
        model = LogisticRegression(C=1 / (ridge * train.size), tol=1e-8, max_iter=1000)
        model.fit((features[train] - centre) / scale, labels[train])
        logits = model.decision_function((features - centre) / scale)
        (probe,) = [fit_linear_probe(features, labels, partition, num_classes=3, ridges=(ridge,))]
        found = np.asarray(probe(features))
        np.testing.assert_allclose(found - found.mean(1, keepdims=True), logits, atol=0.02)
        accuracies.append(accuracy(logits[validation], labels[validation]))
    chosen = fit_linear_probe(features, labels, partition, num_classes=3, ridges=ridges)
    assert chosen.validation.accuracy == pytest.approx(max(accuracies))
    best = [ridge for ridge, one in zip(ridges, accuracies, strict=True) if one == max(accuracies)]
    assert chosen.ridge in best
    constant = fit_linear_probe(features, labels, partition, num_classes=3, ridges=(1e4, 0.02))
    assert constant.ridge == 0.02


def test_no_epoch_leaves_the_probe() -> None:
    encoder = tiny_encoder()
    network = tuned(encoder, dataclasses.replace(FAST, epochs=0))
    images, _ = halves(70, seed=1)
    _, _, _, probe = started(encoder)
    np.testing.assert_allclose(network(images), probe(encoder(images).features), atol=1e-5)
    assert network.epoch == 0
    assert np.isnan(network.learning_rate)
    assert network.validation == pytest.approx(probe.validation, abs=1e-5)


def test_tuning_learns_what_the_features_do_not_separate() -> None:
    encoder = tiny_encoder()
    before = jax.tree.map(np.array, encoder.forward)
    said: list[tuple[int, int]] = []
    network = tuned(encoder, FAST, progress=lambda done, total: said.append((done, total)))
    images, labels = halves(200, seed=1)
    _, _, _, probe = started(encoder)
    assert accuracy(probe(encoder(images).features), labels) < 0.92
    assert accuracy(network(images), labels) > 0.95
    assert network.learning_rate == 1e-2
    assert said[-1] == (16, 16)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, encoder.forward), before)


def test_parameters_alone_are_tuned() -> None:
    encoder = tiny_encoder()
    network = tuned(encoder, FAST)
    forward: Any = encoder.forward
    state = forward.args[0]
    weights, fixed = network._weights.network, network._fixed.network
    assert set(weights) == {"kernel", "bias"}
    assert set(fixed) == {"mean"}
    np.testing.assert_array_equal(fixed["mean"][...], state["mean"][...])
    for name in weights:
        assert not np.array_equal(weights[name][...], state[name][...])


def test_the_best_epoch_is_kept_and_a_bad_rate_is_given_up() -> None:
    encoder = tiny_encoder()
    said: list[int] = []
    settings = FineTuning(learning_rates=(1e4,), epochs=9, patience=2)
    network = tuned(encoder, settings, progress=lambda done, _: said.append(done))
    assert network.epoch == 0  # the probe, as nothing was better
    assert len(said) < 9
    images, labels, partition, _ = started(encoder)
    best = tuned(encoder, FAST)
    assert accuracy(best(images[partition.validation]), labels[partition.validation]) == best.validation.accuracy


def test_the_rate_rises_and_falls_to_0() -> None:
    shares = np.array([fine_tuning._share_of_rate(done) for done in np.linspace(0, 1, 101)])
    assert shares[0] == 0
    assert shares[100] == pytest.approx(0)
    assert shares.argmax() == 10
    assert 0.9 < shares.max() < 1
    assert (np.diff(shares[10:]) < 0).all()


def test_a_seed_and_a_rate_compile_nothing_anew() -> None:
    encoder = tiny_encoder(width=11)
    fine_tuning._step.clear_cache()
    fine_tuning._logits.clear_cache()
    for seed, rate in enumerate((1e-3, 2e-3)):
        tuned(encoder, dataclasses.replace(FAST, learning_rates=(rate, 3 * rate), weight_decay=rate), seed)
    assert fine_tuning._step._cache_size() == 1
    assert fine_tuning._logits._cache_size() == 1


def test_a_seed_decides_everything() -> None:
    encoder = tiny_encoder()
    images, _ = halves(40, seed=1)
    one, same, other = (tuned(encoder, FAST, seed)(images) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_samples_that_fill_a_batch_up_do_not_count() -> None:
    encoder = tiny_encoder()
    images, labels, partition, probe = started(encoder)
    few = Partition(partition.train[:30], partition.validation)
    filled, exact = (
        fine_tune(encoder, images, labels, few, probe=probe, settings=FineTuning((1e-2,), 6, batch_size=size), seed=0)
        for size in (37, 30)
    )
    assert filled.epoch > 0
    np.testing.assert_allclose(filled(images), exact(images), atol=1e-4)


def test_what_has_no_parameters_is_refused() -> None:
    pixels = encoders.load("pixels")
    assert not has_parameters(pixels)
    assert not has_parameters(dataclasses.replace(pixels, forward=len))
    assert has_parameters(tiny_encoder())
    _, labels, partition, probe = started(tiny_encoder())
    with pytest.raises(ValueError, match="pixels has no parameters that could be tuned"):
        fine_tune(pixels, np.zeros(1), labels, partition, probe=probe, settings=FAST, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"patience": 0}, "patience is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rates": ()}, "learning_rates are"),
        ({"learning_rates": (1e-3, float("nan"))}, "learning_rates are"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
    ],
)
def test_settings_of_fine_tuning_refuse_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuning(**options)
