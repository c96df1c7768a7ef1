"""The arguments of each command, and the module that runs it, which is imported when the command is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxrel.cli import names
from jaxrel.cli.options import (
    add_accuracy,
    add_batch_size,
    add_columns,
    add_data_set,
    add_encoder_options,
    add_encoders,
    add_metrics,
    add_number,
    add_official_splits,
    add_output,
    add_pictures,
    add_printing,
    add_reading,
    add_regression,
    add_running,
    encoder_names,
    path_argument,
)

__all__ = ["ADD", "FORMATS", "SHELLS", "VERIFIED"]

FORMATS = ("text", "markdown", "latex", "csv", "json")
SHELLS = ("bash", "zsh", "fish")
AXES = ("samples", "reference_classes", "layer")
COLUMNS = ("encoder", "reference", "target", "samples", "reference_classes")
VERIFIED = (
    "samples",
    "held_out",
    "text_column",
    "label_column",
    "image_size",
    "prompt",
    "width",
    "batch_size",
    "resamples",
    "confidence",
)
"""Settings that `jaxrel verify` reads from the results, if there are any, unless they are passed."""

_NAMES = (
    f"A data set is one of {', '.join(names.DATA_SETS)}; or the path of a file or folder; or hf:NAME of the Hugging "
    f"Face Hub, or tfds:NAME of tensorflow-datasets.\n\nAn encoder is one of {', '.join(names.ENCODERS)}; NAME:random "
    "is the same network with random weights, NAME@CHECKPOINT uses the weights of a file, a folder or a Hugging Face "
    "repository, such as vit@google/vit-base-patch16-224."
)
_KEPT = "Finished work is kept: run the same command again to continue where it stopped."


class _Groups(NamedTuple):
    """The groups of options that commands share."""

    data: argparse._ArgumentGroup
    encoders: argparse._ArgumentGroup
    scoring: argparse._ArgumentGroup
    output: argparse._ArgumentGroup
    running: argparse._ArgumentGroup


def _command(
    commands: Any, name: str, usage: str, text: str, *, description: str, examples: Sequence[str], named: bool = True
) -> argparse.ArgumentParser:
    """A new command; with `named`, its help lists the data sets and encoders."""
    epilog = "\n".join(["Examples:", *(f"  jaxrel {name} {example}" for example in examples)])
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"jaxrel {name} {usage}".rstrip(),
        help=text,
        description=description,
        epilog=f"{epilog}\n\n{_NAMES}" if named else epilog,
    )
    command.set_defaults(module=f"jaxrel.cli.{name}", computes=False)
    return command


def _groups(command: argparse.ArgumentParser) -> _Groups:
    return _Groups(*map(command.add_argument_group, _Groups._fields))


def _rank(commands: Any) -> None:
    rank = _command(
        commands,
        "rank",
        "--target T [T ...] --encoder E [E ...] [options]",
        "rank encoders for target tasks, and explain the ranking",
        description="Rank encoders for every target by transferability, one number computed from the features and "
        "labels of the target, or with --label-free from features alone. --reference adds the terms of "
        f"task-relatedness, which say why. {_KEPT}",
        examples=(
            "--target digits --encoder pixels mobilenet-v2 --image-size 96",
            "--target ./my-pictures --encoder @images-small --reference mnist --output reasons",
        ),
    )
    group = _groups(rank)
    add_data_set(group.data, "--target", "Rank the encoders for each of these data sets.", nargs="+", required=True)
    add_data_set(
        group.data, "--reference", "Add the terms of the bound that begins from these data sets.", nargs="+", default=[]
    )
    add_number(group.data, "--samples", 1000, "Take N training samples of each data set, or all where there are fewer")
    add_number(
        group.data, "--held-out", 400, "With --reference, evaluate the terms on N held-out samples of each data set"
    )
    add_columns(group.data)
    add_regression(group.data)
    add_encoders(group.encoders, "Rank these encoders", required=True)
    add_encoder_options(group.encoders)
    add_batch_size(group.encoders)
    add_number(group.encoders, "--max-parameters", None, "Leave out encoders with more than N parameters")
    add_number(group.encoders, "--max-width", None, "Leave out encoders with more than N features")
    group.scoring.add_argument(
        "--label-free",
        action="store_true",
        help="Ignore target labels, and rank by clusters that augmented views of the training samples agree on.",
    )
    add_number(
        group.scoring, "--target-classes", None, "With --label-free, assume N target classes (default: estimated)"
    )
    group.scoring.add_argument(
        "--class-names",
        type=path_argument,
        metavar="FILE",
        help="Leave target labels alone, and give samples the class whose name is nearest; the file has a line NAME or "
        "NAME<tab>DESCRIPTION for each.",
    )
    teacher = group.scoring.add_argument(
        "--teacher",
        metavar="E",
        help=f"With --class-names, embed samples and names with this encoder (default: {names.TEACHER} for texts; for "
        "images clip-image@CHECKPOINT is to be named).",
    )
    teacher.completer = lambda **_: encoder_names()  # type: ignore[attr-defined]
    add_accuracy(group.scoring, samples="target samples")
    add_number(group.scoring, "--seed", 0, "Score, resample and draw random weights with this seed")
    group.scoring.add_argument(
        "--space",
        choices=("prediction", "feature"),
        default="prediction",
        help="Transport predictions or features (default: %(default)s).",
    )
    group.scoring.add_argument(
        "--cost", choices=names.COSTS, help="Use this ground cost (default: the tightest one of the space)."
    )
    group.scoring.add_argument(
        "--fixed-head", action="store_true", help="Keep the reference head fixed instead of learning it further."
    )
    add_output(group.output, "jaxrel-results", pictures="the ranking")
    add_running(group.running)
    rank.set_defaults(log=names.LOG, computes=True)


def _score(commands: Any) -> None:
    score = _command(
        commands,
        "score",
        "(FILE.npz [FILE.npz ...] | --target T --encoder E [E ...]) [options]",
        "score encoders by many metrics",
        description="Score encoders on one target by any of the metrics of `jaxrel metrics`: from .npz files, "
        "one for each "
        "encoder, with arrays by the names that `jaxrel metrics` lists (features, labels, ...), or from named data "
        f"sets and encoders. {_KEPT}",
        examples=(
            "--target digits --encoder pixels mobilenet-v2 --image-size 96 --metric logme transferability",
            "a.npz b.npz c.npz --metric logme ncti",
        ),
    )
    group = _groups(score)
    group.data.add_argument(
        "files", nargs="*", type=path_argument, metavar="FILE.npz", help="Files with the arrays of one encoder each."
    )
    add_data_set(group.data, "--target", "Score the encoders on this data set.")
    add_data_set(group.data, "--reference", "Use this data set as the reference of the metrics that need one.")
    add_number(group.data, "--samples", 1000, "Take N training samples of each data set, or all where there are fewer")
    add_columns(group.data)
    add_regression(group.data)
    add_encoders(group.encoders, "Score these encoders instead of files")
    add_encoder_options(group.encoders)
    add_batch_size(group.encoders)
    add_metrics(group.scoring, "Compute these metrics (default: all whose arrays are present).")
    group.scoring.add_argument(
        "--views", action="store_true", help="Make two augmented views of the target, which cross_view needs."
    )
    add_number(group.scoring, "--seed", 0, "Draw views and random weights with this seed")
    add_output(group.output, "jaxrel-scores", pictures="the scores")
    add_running(group.running)
    score.set_defaults(log=names.LOG, computes=True)


def _study(commands: Any) -> None:
    study = _command(
        commands,
        "study",
        "--target T [T ...] --encoder E [E ...] [options]",
        "vary samples, seeds, references, their classes and metrics, and plot the results",
        description="Compute every metric of every encoder on every target, with every reference where the metric "
        "needs one, for every number of samples, seed and choice of reference classes, and plot the results: a "
        "curve over what "
        f"is varied, the terms of the bound, or a heat map. {_KEPT}",
        examples=(
            "--target digits --encoder mobilenet-v2 pixels --image-size 96 --samples 50 100 200 --seed 0 1 2",
            "--target digits --encoder pixels --metric logme transferability --plan",
        ),
    )
    group = _groups(study)
    add_data_set(group.data, "--target", "Compute every metric on these data sets.", nargs="+", required=True)
    add_data_set(group.data, "--reference", "Compare the targets with these data sets.", nargs="+", default=[])
    group.data.add_argument(
        "--samples", nargs="+", type=int, default=[], metavar="N", help="Draw these numbers of samples of each target."
    )
    add_number(
        group.data, "--held-out", 400, "Evaluate the bound and accuracies on N held-out samples of each data set"
    )
    group.data.add_argument(
        "--reference-classes",
        nargs="+",
        default=["all"],
        metavar="C",
        help="Keep these classes of the references: all, nearest:3, learned:3, random:3, or names separated by commas.",
    )
    add_columns(group.data)
    add_regression(group.data)
    add_encoders(group.encoders, "Compute every metric of these encoders", required=True)
    group.encoders.add_argument(
        "--layer", nargs="+", type=int, default=[], metavar="N", help="Take these layers of every encoder."
    )
    add_encoder_options(group.encoders)
    add_batch_size(group.encoders)
    add_metrics(
        group.scoring,
        f"Compute these of `jaxrel metrics`, or of {', '.join(names.TRAINED)} (default: transferability, and with "
        "references the bound).",
        names.TRAINED,
    )
    group.scoring.add_argument(
        "--seed", nargs="+", type=int, default=[0], metavar="N", help="Draw and score with these seeds (default: 0)."
    )
    add_accuracy(group.scoring, samples="target samples")
    group.output.add_argument("--x", choices=AXES, help="Plot a curve over this axis (default: the axis that varies).")
    group.output.add_argument("--y", metavar="NUMBER", help="Plot this metric, or another number of the records.")
    group.output.add_argument(
        "--heat-map",
        nargs=2,
        choices=COLUMNS,
        metavar=("ROWS", "COLUMNS"),
        help=f"Draw a heat map of two of {', '.join(COLUMNS)}.",
    )
    add_output(group.output, "jaxrel-study", pictures="the study")
    group.running.add_argument(
        "--plan", action="store_true", help="Print what would be computed, without computing it."
    )
    add_running(group.running)
    study.set_defaults(log=names.LOG, computes=True)


def _verify(commands: Any) -> None:
    verify = _command(
        commands,
        "verify",
        "(--target T --encoder E [E ...] | --results FOLDER) [options]",
        "train probes and networks on your labels, and say how well scores predicted their accuracies",
        description="Train a linear probe and a fine-tuned network of each encoder on the labels of the target, and "
        "say how well transferability, or every score of a finished study, agrees with their accuracies on held-out "
        f"samples. {_KEPT}",
        examples=(
            "--results jaxrel-results --best 5",
            "--target digits --encoder pixels mobilenet-v2 --image-size 96 --epochs 5",
        ),
    )
    group = _groups(verify)
    add_data_set(group.data, "--target", "Train on this data set (default: that of --results).")
    add_number(group.data, "--samples", 1000, "Train on N samples, of which a fifth is the validation split")
    add_number(group.data, "--held-out", 400, "Test on N samples")
    add_columns(group.data)
    add_encoders(group.encoders, "Train these encoders (default: those of --results)", default=[])
    add_number(group.encoders, "--best", None, "With --results, train only its best N encoders")
    add_encoder_options(group.encoders)
    add_batch_size(group.encoders)
    group.scoring.add_argument(
        "--results",
        type=path_argument,
        metavar="FOLDER",
        help="Verify the scores that `jaxrel rank` or `jaxrel study` wrote to this folder, with its settings "
        "unless others are passed.",
    )
    group.scoring.add_argument(
        "--seed", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="Train with these seeds (default: 0 1 2)."
    )
    add_number(group.scoring, "--epochs", None, "Train for at most N epochs (default: 15)")
    group.scoring.add_argument(
        "--learning-rate",
        nargs="+",
        type=float,
        metavar="R",
        help="Choose among these learning rates on the validation split (default: 3e-5 3e-4).",
    )
    add_accuracy(group.scoring, samples="test samples")
    add_output(group.output, "jaxrel-verify", pictures="the verification")
    add_running(group.running)
    verify.set_defaults(log=names.LOG, computes=True, **dict.fromkeys(VERIFIED))


def _report(commands: Any) -> None:
    report = _command(
        commands,
        "report",
        "FOLDER [FOLDER ...] [options]",
        "recreate tables and pictures from the files of earlier runs",
        description="Print what `jaxrel rank`, `score`, `study` and `verify` found, from their results.json, "
        "scores.json, study.json and verification.json alone: neither data nor encoders are needed. Folders of equal "
        "settings are put into one table. With --output the files and pictures of all of them are written too, and "
        "report.html, one page of everything.",
        examples=("jaxrel-results", "jaxrel-results more-results --format markdown --output together"),
        named=False,
    )
    data, output = report.add_argument_group("data"), report.add_argument_group("output")
    data.add_argument(
        "folders", nargs="+", type=path_argument, metavar="FOLDER", help="Output folders of earlier runs."
    )
    form = output.add_mutually_exclusive_group()
    form.add_argument("--format", choices=FORMATS, default="text", help="Print in this format (default: %(default)s).")
    form.add_argument("--json", action="store_const", dest="format", const="json", help="Print JSON instead of tables.")
    output.add_argument(
        "--output", type=path_argument, metavar="DIR", help="Write files and pictures into this folder."
    )
    add_pictures(output, "each picture")


def _extract(commands: Any) -> None:
    extract = _command(
        commands,
        "extract",
        "(--encoder E [E ...] --data D | --list) [options]",
        "compute features of a data set and keep them",
        description="Compute features of a data set under encoders, on all devices, and keep them in a store. "
        "Finished shards are kept: the same command goes on where it was stopped. In the default store, `jaxrel rank` "
        "and `jaxrel score` find the features of as many samples, in batches of the same size, in float32.",
        examples=("--encoder pixels mobilenet-v2 --data digits --split train test --image-size 96", "--list"),
    )
    group = _groups(extract)
    add_data_set(group.data, "--data", "Encode the samples of this data set.")
    group.data.add_argument(
        "--data-path", type=path_argument, metavar="PATH", help="Read the data set from your own copy of it."
    )
    group.data.add_argument(
        "--split",
        nargs="+",
        choices=("train", "test"),
        default=["train"],
        help="Encode training samples, test samples or both (default: train).",
    )
    add_number(group.data, "--samples", None, "Encode N samples of each split (default: all)")
    group.data.add_argument("--views", action="store_true", help="Encode two augmented views of the samples as well.")
    add_official_splits(group.data)
    add_reading(group.data)
    add_regression(group.data)
    add_encoders(group.encoders, "Compute features under these encoders")
    add_encoder_options(group.encoders)
    add_batch_size(group.encoders)
    add_number(group.encoders, "--seed", 0, "Draw views and random weights with this seed")
    group.output.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="Keep features in this type (default: %(default)s).",
    )
    group.output.add_argument(
        "--output",
        type=path_argument,
        metavar="DIR",
        help="Keep features in the store of this folder (default: $JAXREL_CACHE/features, or jaxrel/features in the "
        "user's cache folder).",
    )
    group.output.add_argument(
        "--list", action="store_true", help="List the contents of the store, without extracting anything."
    )
    add_printing(group.output, "what was extracted", quiet="no progress, no notes")
    add_running(group.running)
    extract.set_defaults(log="", computes=True)


def _metrics(commands: Any) -> None:
    metrics = _command(
        commands,
        "metrics",
        "[--json]",
        "list the metrics, what each needs and its source",
        description="List the metrics that `jaxrel score` and `jaxrel study` take, what each needs and where it is "
        "from.",
        examples=("", "--json"),
        named=False,
    )
    add_printing(metrics.add_argument_group("output"), "the list")


def _completion(commands: Any) -> None:
    completion = _command(
        commands,
        "completion",
        "bash|zsh|fish",
        "print a script for shell completion of commands, options and names",
        description="Print a script that has a shell complete commands, options, encoders, data sets and metrics, "
        "those of installed plugins included.",
        examples=(
            "bash > ~/.local/share/bash-completion/completions/jaxrel",
            "zsh > ~/.zfunc/_jaxrel    # in a folder of $fpath",
            "fish > ~/.config/fish/completions/jaxrel.fish",
        ),
        named=False,
    )
    completion.add_argument_group("output").add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help=f"Print the script of {', '.join(SHELLS[:-1])} or {SHELLS[-1]}."
    )


ADD = (_rank, _score, _study, _verify, _report, _extract, _metrics, _completion)
"""Adds a command to the subparsers of a parser; each subparser is one command."""
