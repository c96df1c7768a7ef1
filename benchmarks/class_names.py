"""What are labels worth that a teacher gives by the names of the classes?

    python benchmarks/class_names.py --data-path wordnet-nouns=/usr/share/wordnet movie-5=FILE amazon-5=FILE

FILE is the archive that `pip download --no-deps --no-binary :all: vaderSentiment==0.5` brings. For each set of texts,
each teacher, and names or descriptions: how many samples get their true label, and how the order of encoders by
transferability on these labels agrees with that on the true labels (weighted Kendall's tau, ranks by truth). The second
tau leaves out the encoders that are the teacher or a layer of it. RankMe, which needs no labels, is for comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel import data
from jaxrel.evaluation import weighted_kendall_tau
from jaxrel.study import FeatureArrays, Settings, Study, feature_store, named_sources, run
from jaxrel.study.documents import write_json
from jaxrel.study.sources import silent

ENCODERS = (
    "all-minilm-l6-v2",
    "all-minilm-l6-v2#4",
    "all-minilm-l6-v2#2",
    "paraphrase-minilm-l3-v2",
    "paraphrase-minilm-l3-v2#1",
    "glove-6b-50d",
    "all-minilm-l6-v2:random",
    "paraphrase-minilm-l3-v2:random",
)
TEACHERS = ("all-minilm-l6-v2", "paraphrase-minilm-l3-v2", "glove-6b-50d")
LEAST = 2  # resamples: with some, studies in one process share what is compiled
DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "bbc-news": {
        "business": "news about companies, markets and the economy",
        "entertainment": "news about films, music, television and celebrities",
        "politics": "news about the government, parties and elections",
        "sports": "news about football, rugby, tennis and athletics",
        "tech": "news about computers, software, mobile phones and the internet",
    },
    "20-newsgroups": {
        "alt.atheism": "atheism, and arguments about the existence of god",
        "comp.graphics": "computer graphics, image formats and rendering",
        "comp.os.ms-windows.misc": "the operating system Microsoft Windows",
        "comp.sys.ibm.pc.hardware": "hardware of IBM PCs: disks, controllers, boards",
        "comp.sys.mac.hardware": "hardware of Apple Macintosh computers",
        "comp.windows.x": "the X Window System on Unix",
        "misc.forsale": "things for sale, with prices and shipping",
        "rec.autos": "cars",
        "rec.motorcycles": "motorcycles and riding",
        "rec.sport.baseball": "baseball teams, players and games",
        "rec.sport.hockey": "ice hockey teams, players and games",
        "sci.crypt": "cryptography, encryption and the clipper chip",
        "sci.electronics": "electronics and circuits",
        "sci.med": "medicine, diseases and their treatment",
        "sci.space": "space flight, satellites and astronomy",
        "soc.religion.christian": "Christianity, the church and the Bible",
        "talk.politics.guns": "gun control and the right to bear arms",
        "talk.politics.mideast": "politics of the Middle East, Israel, Arabs, Armenians and Turks",
        "talk.politics.misc": "American politics, taxes, and rights of minorities",
        "talk.religion.misc": "religion, sects and morality in general",
    },
    "reuters-r8": {
        "acq": "a company acquires another company or its shares",
        "crude": "crude oil, petroleum and its prices",
        "earn": "quarterly earnings, net profit and dividends of a company",
        "grain": "grain, wheat, corn and harvests",
        "interest": "interest rates of banks and central banks",
        "money-fx": "foreign exchange, currencies and the money market",
        "ship": "ships, ports and shipping",
        "trade": "foreign trade, tariffs and the balance of trade",
    },
    "wordnet-nouns": {
        "act": "an act or action",
        "animal": "an animal",
        "artifact": "an object made by people",
        "attribute": "a quality or attribute of people or objects",
        "body": "a part of the body",
        "cognition": "a process or content of the mind, a field of study",
        "communication": "something said or written, a means of communication",
        "event": "an event that happens",
        "feeling": "a feeling or emotion",
        "food": "something to eat or drink",
        "group": "a group of people or things",
        "location": "a place or region",
        "motive": "a goal or motive",
        "object": "a natural object that is not made by people",
        "person": "a person",
        "phenomenon": "a natural phenomenon",
        "plant": "a plant",
        "possession": "something owned or paid",
        "process": "a natural process",
        "quantity": "a quantity or unit of measure",
        "relation": "a relation between people, things or ideas",
        "shape": "a shape of two or three dimensions",
        "state": "a state of affairs or of health",
        "substance": "a substance or material",
        "time": "a time, or a relation in time",
    },
    "movie-5": {
        "very negative": "an awful film, one of the worst",
        "negative": "the film is rather weak and disappoints",
        "neutral": "the film is neither good nor bad",
        "positive": "the film is quite good and enjoyable",
        "very positive": "a brilliant film, a masterpiece",
    },
    "amazon-5": {
        "very negative": "it is terrible, a waste of money, do not buy it",
        "negative": "it has problems and disappoints me",
        "neutral": "it is a product that I bought",
        "positive": "it works well and I like it",
        "very positive": "it is excellent, I love it and recommend it",
    },
}


def features_of(target: str, num_samples: int, data_paths: Mapping[str, Path]) -> FeatureArrays:
    """The training samples under every encoder."""
    settings = Settings(samples=num_samples, held_out=0)
    own = {name: path for name, path in data_paths.items() if name == target}
    (source,) = named_sources([target], settings=settings, store=feature_store(), data_paths=own).values()
    return FeatureArrays(target, {name: source.features(name, silent).train for name in ENCODERS})


def values_of(target: FeatureArrays, metric: str, settings: Settings) -> np.ndarray:
    """The number of each encoder, NaN where there is none."""
    results = run(Study(ENCODERS, [target], metrics=[metric], settings=settings).plan())
    found = {record.encoder: record.value for record in results.entries}
    return np.array([found[name] for name in ENCODERS])


def labels_of(target: FeatureArrays, settings: Settings) -> np.ndarray:
    """The class name of each sample, true or, where the settings name classes, the teacher's."""
    plan = Study(ENCODERS, [target], metrics=["transferability"], settings=settings).plan()
    task = plan.sources[plan.units[0].target_source].features(ENCODERS[0], silent).train
    assert task.class_names is not None
    return np.array(task.class_names)[np.asarray(task.labels)]


def agreement(values: np.ndarray, truth: np.ndarray, left_out: str = "") -> float:
    """Weighted Kendall's tau, over all encoders but those with the weights of one."""
    kept = [name.partition("#")[0] != left_out for name in ENCODERS]
    return float(weighted_kendall_tau(values[kept], truth[kept], convention="by_truth"))


def judged(target: FeatureArrays) -> dict[str, Any]:
    """Every teacher, with names and with descriptions."""
    plain = Settings(resamples=LEAST)
    true, truth = labels_of(target, plain), values_of(target, "transferability", plain)
    rankme = values_of(target, "rankme", plain)
    rows: list[dict[str, Any]] = []
    for teacher in TEACHERS:
        for kind in ("names", "descriptions"):
            said = DESCRIPTIONS[target.name]
            names: Any = list(said) if kind == "names" else {name: [text] for name, text in said.items()}
            settings = Settings(resamples=LEAST, class_names=names, teacher=teacher)
            row: dict[str, Any] = {"teacher": teacher, "said": kind}
            rows.append(row)
            try:
                hits = labels_of(target, settings) == true
            except ValueError as error:  # a name or a sample of which the teacher makes nothing
                row["failed"] = str(error)
                continue
            values = values_of(target, "transferability", settings)
            row |= {
                "accuracy": float(hits.mean()),
                "balanced_accuracy": float(np.mean([hits[true == name].mean() for name in np.unique(true)])),
                "tau": agreement(values, truth),
                "tau_without_teacher": agreement(values, truth, teacher),
                "transferability": dict(zip(ENCODERS, values.tolist(), strict=True)),
            }
    return {
        "target": target.name,
        "num_samples": len(true),
        "num_classes": len(np.unique(true)),
        "majority": float(np.unique(true, return_counts=True)[1].max() / len(true)),
        "transferability": dict(zip(ENCODERS, truth.tolist(), strict=True)),
        "rankme_tau": agreement(rankme, truth),
        "teachers": rows,
    }


def shown(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each target, teacher and what it is told."""
    table = Table("target", "teacher", "told", "accuracy", "balanced", "tau", "without teacher", "RankMe's tau")
    for result in found:
        for row in result["teachers"]:
            cells = [result["target"], row["teacher"], row["said"]]
            if "failed" in row:
                table.add_row(*cells, row["failed"])
                continue
            shares = (f"{row[name]:.1%}" for name in ("accuracy", "balanced_accuracy"))
            taus = (f"{tau:.2f}" for tau in (row["tau"], row["tau_without_teacher"], result["rankme_tau"]))
            table.add_row(*cells, *shares, *taus)
    return table


def main() -> None:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=DESCRIPTIONS, default=list(DESCRIPTIONS))
    parser.add_argument("--samples", type=int, default=400, help="of each data set")
    parser.add_argument("--data-path", nargs="+", default=[], metavar="NAME=PATH", help="as given to `jaxrel rank`")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "class_names.json")
    options = parser.parse_args()
    given = {name: Path(path) for name, path in (entry.split("=", 1) for entry in options.data_path)}
    start, found, console = time.perf_counter(), [], Console(highlight=False, width=140)
    for target in options.target:
        if set(DESCRIPTIONS[target]) != set(data.describe(target).class_names):
            raise ValueError(f"the descriptions of {target} are not of its classes")
        found.append(judged(features_of(target, options.samples, given)))
        console.print(f"{target}: {time.perf_counter() - start:.0f} s")
    console.print(shown(found))
    document = {"versions": {name: version(name) for name in ("jax", "numpy", "jaxrel")}, "targets": found}
    write_json(options.output, document)
    console.print(f"Written to {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
