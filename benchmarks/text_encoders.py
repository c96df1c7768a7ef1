"""Does the order of encoders of texts hold after training? 25 encoders, six targets, truth by probe and fine-tuning.

    python benchmarks/text_encoders.py --data-path wordnet-nouns=/usr/share/wordnet movie-5=FILE amazon-5=FILE --page

FILE is the archive that `pip download --no-deps --no-binary :all: vaderSentiment==0.5` brings. Encoders are every layer
of two MiniLM, by the mean of the tokens and by CLS, networks with random weights, word vectors with
and without weights of the words, and singular vectors of words and of runs of letters. Scores see the training texts
alone; accuracies are those on others, after a linear probe (three draws of the samples that its ridge is chosen by) and
after fine-tuning. What has nothing to tune counts there by its probe. Nothing was chosen on these results. Finished
numbers are kept in the work folder, beside the features; the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from class_names import DESCRIPTIONS
from jaxtyping import Float
from pages import markdown, write_tables
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from jaxrel import data
from jaxrel.encoders import Encoder, extract_features, from_function, load
from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.glove import glove_encoder
from jaxrel.encoders.texts.packaged import load_packaged_network, packaged_tokenizer
from jaxrel.evaluation import bootstrap_intervals, ceiling, compare_scores
from jaxrel.storage.features import FeatureStore
from jaxrel.storage.records import write_atomically
from jaxrel.study import Settings, Study, run
from jaxrel.study.documents import write_json
from jaxrel.study.records import Record
from jaxrel.training import FineTuning

RESULTS = Path(__file__).parent / "results" / "text_encoders.json"
PAGE = Path(__file__).parents[1] / "docs" / "predicting_transfer.md"
WORK = Path(__file__).parent / "data" / "text-encoders"
NETWORKS = {"all-minilm-l6-v2": 6, "paraphrase-minilm-l3-v2": 3}
RANDOM = (("all-minilm-l6-v2", 6), ("all-minilm-l6-v2", 1), ("paraphrase-minilm-l3-v2", 3))
GLOVE, TEACHER = "glove-6b-50d", "all-minilm-l6-v2"
Pooling = Literal["mean", "cls"]
MAX_LENGTH = 20  # tokens
WORDS = 25  # of a text: more than are looked at
NUM_SINGULAR = 100
NUM_TEXTS = 2000
LEAST_TEXTS = 20  # of a class, so that at least two are among those for training, of which one is for validation
NUM_TRAINING, NUM_TEST = 240, 300  # three quarters of the texts are for training
TAU = "weighted_kendall_tau_symmetric"
TUNING = FineTuning(learning_rates=(2e-4,), epochs=3, patience=2, batch_size=24)
PROBE_SEEDS = (0, 1, 2)
# The truth is balanced accuracy, a mean over classes as transferability is; accuracy is told beside it.
NUMBERS = {"balanced": "balanced_accuracy", "plain": "value"}
KINDS = {
    "probe, balanced": "linear probe",
    "fine-tuning, balanced": "fine-tuning",
    "probe, plain": "linear probe, plain accuracy",
    "fine-tuning, plain": "fine-tuning, plain accuracy",
}
SUPERVISION = ("labels", "class names", "class descriptions")
PEERS = ("logme", "nearest_neighbours", "h_score", "ridge_probe")
LABEL_FREE = ("transferability", "rankme")
LEAST = 2  # resamples: with some, studies in one process share what is compiled


@dataclass(frozen=True)
class Target:
    """The beginnings of the texts of a data set, as a file of lines of JSON."""

    name: str
    path: Path
    texts: tuple[str, ...]
    classes: tuple[str, ...]

    def study(self, encoders: Sequence[Encoder], metrics: Sequence[str], work: Path, **options: Any) -> list[Record]:
        """Numbers of a study of this target alone, those of its folder included."""
        seeds = options.pop("seeds", (0,))
        settings = Settings(samples=NUM_TRAINING, held_out=NUM_TEST, resamples=LEAST, fine_tuning=TUNING, **options)
        study = Study(
            encoders,
            [str(self.path)],
            metrics=metrics,
            seeds=seeds,
            settings=settings,
            store=FeatureStore(work / "features"),
        )
        return list(run(study.plan(), output=work / self.name).entries)


def prepared(name: str, work: Path, data_paths: Mapping[str, Path]) -> Target:
    """A target whose texts are cut, each kept once, without classes of so few texts that they cannot be tested."""
    # A text that is shorter than the cut stays on its side of the split, which goes by content: take both sides.
    parts = data.load_splits(
        name, path=data_paths.get(name), train_limit=NUM_TEXTS - NUM_TEXTS // 4, test_limit=NUM_TEXTS // 4
    )
    label_of = {
        " ".join(str(text).split()[:WORDS]): part.class_names[label]
        for part in parts
        if part is not None
        for text, label in zip(np.asarray(part.samples), part.labels, strict=True)
    }
    counts = Counter(label_of.values())
    rows = {text: label for text, label in label_of.items() if text and counts[label] >= LEAST_TEXTS}
    path = work / f"{name}.jsonl"
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows.items())
    write_atomically(path, "".join(lines).encode())
    if (num_test := len(data.load(str(path), split="test"))) < NUM_TEST:
        raise ValueError(f"{name} has {num_test} texts to test on, and {NUM_TEST} are needed")
    return Target(name, path, tuple(rows), tuple(sorted(set(rows.values()))))


def encoders_of(target: Target) -> Iterator[Encoder]:
    """All 25; those of singular vectors have seen the texts of the target, without labels."""
    for name, num_layers in NETWORKS.items():
        for layer in range(1, num_layers + 1):
            yield of_network(name, layer, "mean")
            yield of_network(name, layer, "cls")
    for name, layer in RANDOM:
        yield of_network(name, layer, "mean", rng=np.random.default_rng(0))
    glove = load(GLOVE)
    yield replace(glove, name=f"{GLOVE} mean")
    yield of_weighted_words(target.texts, glove)
    for analyser, runs in (("word", (1, 1)), ("char_wb", (2, 4))):
        yield of_singular_vectors(target.texts, analyser, runs)


def of_network(name: str, layer: int, pooling: Pooling, rng: np.random.Generator | None = None) -> Encoder:
    """A network after one of its layers."""
    network = load_packaged_network(name, rng=rng, layer=layer)
    network.pooling = pooling
    called = f"{name}{'' if rng is None else ' random'} layer {layer} {pooling}"
    return text_encoder(
        network, packaged_tokenizer(), name=called, max_length=MAX_LENGTH, description=network.description
    )


def of_weighted_words(texts: Sequence[str], glove: Encoder) -> Encoder:
    """Means of word vectors, each weighted by how rare its word is in the texts."""
    tfidf = TfidfVectorizer(token_pattern=r"[^\W_]+").fit(texts)
    vectors = dict(zip(tfidf.vocabulary_, extract_features(glove, list(tfidf.vocabulary_)), strict=True))
    words = [word for word, vector in vectors.items() if vector.any()]
    table = np.stack([tfidf.idf_[tfidf.vocabulary_[word]] * vectors[word] for word in words])
    return glove_encoder(table.astype(np.float32), words, name=f"{GLOVE} idf")


def of_singular_vectors(texts: Sequence[str], analyser: str, runs: tuple[int, int]) -> Encoder:
    """Weighted counts of words or of runs of letters, in the directions of the texts' largest singular values."""
    counts = TfidfVectorizer(analyzer=analyser, ngram_range=runs, sublinear_tf=True).fit(texts)
    svd = TruncatedSVD(NUM_SINGULAR, random_state=0).fit(counts.transform(texts))
    return from_function(
        lambda batch: svd.transform(counts.transform(batch)).astype(np.float32),
        name=f"{analyser} counts",
        version="1",
        modality="texts",
    )


def values_of(
    records: Sequence[Record], encoders: Sequence[Encoder], number: str = "value"
) -> dict[str, list[list[float]]]:
    """By metric, the number that each seed gives each encoder; NaN where there is none."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        value = record.numbers.get(number, math.nan)
        found.setdefault(record.metric, {}).setdefault(record.seed, {})[record.encoder] = value
    return {
        metric: [[of_seed[encoder.name] for encoder in encoders] for _, of_seed in sorted(by_seed.items())]
        for metric, by_seed in found.items()
    }


def measured(target: Target, work: Path, done: Callable[[str], None]) -> dict[str, Any]:
    """Every score and accuracy of a target: lists over encoders, of accuracies lists over seeds of them."""
    encoders = list(encoders_of(target))
    labelled = values_of(target.study(encoders, ("transferability", *PEERS), work), encoders)
    scores = {f"{metric}, labels": values for metric, (values,) in labelled.items()}
    done("labels")
    free = values_of(target.study(encoders, LABEL_FREE, work, label_free=True), encoders)
    scores |= {f"{metric}, no labels": values for metric, (values,) in free.items()}
    done("no labels")
    said = {name: [DESCRIPTIONS[target.name][name]] for name in target.classes}
    for kind, names in (("names", list(said)), ("descriptions", said)):
        for metric, (values,) in values_of(
            target.study(encoders, ("transferability", *PEERS), work, class_names=names, teacher=TEACHER), encoders
        ).items():
            scores[f"{metric}, class {kind}"] = values
    done("class names")
    probed = target.study(encoders, ("probe_accuracy",), work, seeds=PROBE_SEEDS)
    done("probe")
    tuned = target.study(encoders, ("fine_tuned_accuracy",), work)
    done("fine-tuning")
    accuracies = {}
    for kind, number in NUMBERS.items():
        probe = values_of(probed, encoders, number)["probe_accuracy"]
        (found,) = values_of(tuned, encoders, number)["fine_tuned_accuracy"]
        accuracies[f"probe, {kind}"] = probe
        accuracies[f"fine-tuning, {kind}"] = [np.where(np.isnan(found), np.mean(probe, axis=0), found).tolist()]
    tested = data.load(str(target.path), split="test", limit=NUM_TEST)
    return {
        "target": target.name,
        "num_texts": len(target.texts),
        "num_test": dict(zip(tested.class_names, np.bincount(tested.labels).tolist(), strict=True)),
        "encoders": [encoder.name for encoder in encoders],
        "num_parameters": [encoder.num_parameters or 0 for encoder in encoders],
        "scores": scores,
        "accuracies": accuracies,
    }


def judged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The weighted tau of every score with each kind of accuracy, the mean over targets, and differences to peers."""
    rows: dict[str, Any] = {}
    differences: dict[tuple[str, str], Any] = {}
    best = {}
    targets = [result["target"] for result in found]
    for kind in KINDS:
        truth = np.stack([np.array(result["accuracies"][kind]) for result in found], axis=-1)
        scores = {name: stacked([result["scores"][name] for result in found]) for name in found[0]["scores"]}
        scores["number of parameters"] = stacked([result["num_parameters"] for result in found])
        for name, values in scores.items():
            tau = bootstrap_intervals(values, truth.mean(axis=0), statistic=TAU)
            rows.setdefault(name, {})[kind] = told(tau, targets)
        for said, peer in itertools.product(SUPERVISION, ("logme", "nearest_neighbours")):
            pair = f"transferability, {said}", f"{peer}, {said}"
            paired = compare_scores(scores[pair[0]], scores[pair[1]], truth.mean(axis=0), statistic=TAU)
            differences.setdefault(pair, {})[kind] = ends(paired.difference)
        sizes = [size_of_test(result["num_test"].values(), kind) for result in found]
        best[kind] = told(ceiling(truth, num_test=np.array(sizes), statistic=TAU), targets)
    pairs = [{"score": ours, "baseline": theirs} | kinds for (ours, theirs), kinds in differences.items()]
    return {"rows": rows, "differences": pairs, "ceiling": best}


def size_of_test(counts: Iterable[int], kind: str) -> float:
    """Number of test texts; of balanced accuracy, a mean over K classes, as many of equal classes have its noise."""
    sizes = np.array(list(counts))
    return float(len(sizes) ** 2 / np.sum(1 / sizes)) if kind.endswith("balanced") else float(sizes.sum())


def told(found: Any, targets: Sequence[str]) -> dict[str, Any]:
    """The mean over targets with its interval, and each target."""
    per_target = np.asarray(found.per_target.estimate).tolist()
    return ends(found.mean) | {"per_target": dict(zip(targets, per_target, strict=True))}


def stacked(columns: Sequence[Sequence[float]]) -> Float[np.ndarray, "e t"]:
    """A column for each target; a metric that has no value for an encoder says the worst of it."""
    values = np.stack(columns, axis=-1)
    return np.where(np.isfinite(values), values, -1e30)


def ends(found: Any) -> dict[str, float]:
    """An estimate and its interval."""
    return {end: float(getattr(found, end)) for end in ("estimate", "lower", "upper")}


def rows_of(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """A row for each score: its name, and its weighted tau with each kind of accuracy."""
    found = {**evaluation["rows"], "a perfect score": evaluation["ceiling"]}
    return [[name.replace("_", " "), *(interval(row[kind]) for kind in KINDS)] for name, row in found.items()]


def target_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """A row for each score: its weighted tau on each target, with the probe and after fine-tuning."""
    found = {**evaluation["rows"], "a perfect score": evaluation["ceiling"]}
    return [
        [
            name.replace("_", " "),
            *(
                ", ".join(f"{row[kind]['per_target'][target]:.2f}" for kind in list(KINDS)[:2])
                for target in row["probe, balanced"]["per_target"]
            ),
        ]
        for name, row in found.items()
    ]


def difference_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """A row for each pair of scores."""
    return [
        [
            *(row[role].replace("_", " ") for role in ("score", "baseline")),
            *(interval(row[kind], "+") for kind in KINDS),
        ]
        for row in evaluation["differences"]
    ]


def interval(found: Mapping[str, float], sign: str = "") -> str:
    """An estimate and its interval."""
    return f"{found['estimate']:{sign}.2f} ({found['lower']:{sign}.2f} to {found['upper']:{sign}.2f})"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=DESCRIPTIONS, default=list(DESCRIPTIONS))
    parser.add_argument("--data-path", nargs="+", default=[], metavar="NAME=PATH", help="as given to `jaxrel rank`")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of what is finished")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="rewrite the tables of the documentation")
    options = parser.parse_args()
    given = {name: Path(path) for name, path in (entry.split("=", 1) for entry in options.data_path)}
    options.work.mkdir(parents=True, exist_ok=True)
    start, found, console = time.perf_counter(), [], Console(highlight=False, width=120)
    for name in options.target:
        target = prepared(name, options.work, given)

        def done(what: str, name: str = name) -> None:
            console.print(f"{name}, {what}: {time.perf_counter() - start:.0f} s")

        found.append(measured(target, options.work, done))
    evaluation = judged(found)
    table = Table("score", *KINDS.values())
    for row in rows_of(evaluation):
        table.add_row(*row)
    console.print(table)
    versions = {name: version(name) for name in ("jax", "numpy", "jaxrel", "scikit-learn")}
    write_json(options.output, {"versions": versions, "evaluation": evaluation, "targets": found})
    console.print(f"Written to {options.output}", soft_wrap=True)
    if options.page:
        tables = {
            "texts": markdown(["score", *KINDS.values()], rows_of(evaluation)),
            "text targets": markdown(["score", *options.target], target_rows(evaluation)),
            "text differences": markdown(["score", "minus", *KINDS.values()], difference_rows(evaluation)),
        }
        write_tables(PAGE, tables)


if __name__ == "__main__":
    main()
