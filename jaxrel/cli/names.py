"""Names that the parser needs without importing the library, because importing JAX takes most of a second. Tests keep
them true."""

from __future__ import annotations

from importlib.metadata import entry_points

__all__ = [
    "COSTS",
    "DATA_SETS",
    "ENCODERS",
    "LISTS",
    "LOG",
    "METRICS",
    "PICTURES",
    "TEACHER",
    "TRAINED",
    "with_plugins",
]

DATA_SETS = (
    "mnist", "fashion-mnist", "animal-mnist", "digits", "openclipart", "20-newsgroups", "reuters-r8", "bbc-news",
    "wordnet-nouns", "movie-5", "amazon-5",
)  # fmt: skip
ENCODERS = (
    "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "mobilenet-v2", "resnet-18", "resnet-34",
    "resnet-50", "resnet-101", "resnet-152", "squeezenet-1.1", "pixels", "vit", "clip", "clip-image", "siglip",
    "dinov2", "dinov3", "beit", "convnext", "swin", "clip-resnet", "all-minilm-l6-v2", "paraphrase-minilm-l3-v2",
    "glove-6b-50d", "bert", "modernbert", "mpnet", "t5", "bart", "llama", "clip-text",
)  # fmt: skip
LISTS = ("@images-small", "@images-strong", "@texts-small", "@texts-strong")
METRICS = (
    "task_relatedness", "f_otce", "jc_otce", "ot_nce", "otdd", "transferability", "logme", "h_score",
    "regularised_h_score", "transrate", "sfda", "gbc", "ncti", "etran", "discriminant", "pactran_gaussian", "nleep",
    "parc", "lfc", "silhouette", "nearest_neighbours", "ridge_probe", "logme_regression", "ridge_regression", "leep",
    "nce", "pactran_dirichlet", "pactran_gamma", "cross_view", "rankme", "alpha_req", "energy", "energy_distance",
    "mmd", "sinkhorn_divergence", "cka", "maximum_probability", "negative_entropy", "information_maximisation",
)  # fmt: skip
TRAINED = ("bound", "probe_accuracy", "fine_tuned_accuracy")
COSTS = ("margin", "range", "euclidean")
TEACHER = "all-minilm-l6-v2"
PICTURES = ("png", "svg", "pdf")
LOG = "records.jsonl"


def with_plugins(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, followed by the "encoders", "metrics" or "data" of installed plugins."""
    return (*names, *(point.name for point in entry_points(group=f"jaxrel.{kind}")))
