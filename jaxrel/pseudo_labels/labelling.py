"""`pseudo_label` and its result: validation of concrete values, then a strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel._core.arrays import real_array, to_array
from jaxrel._core.checks import Key, checked_key, is_traced
from jaxrel._core.labels import encoded_labels
from jaxrel.pseudo_labels.class_count import class_count
from jaxrel.pseudo_labels.strategies import Known, Strategy, ViewClusters
from jaxrel.pseudo_labels.view_whitening import view_whitening
from jaxrel.task import Task

__all__ = ["ClassPrior", "PseudoLabels", "checked_views", "pseudo_label"]

ClassPrior = Literal["clusters", "uniform"] | tuple[float, ...]

# Candidates of an unknown class count.
_CANDIDATES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30)
_SAMPLES_A_CLASS = 10


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PseudoLabels:
    """Classes assigned to unlabelled samples. Results computed from them are relative to these classes.

    Attributes:
        labels: the class of the largest share in each sample; class numbers have no meaning of their own, unless the
            strategy takes them from the reference.
        shares: of every class in each sample; one-hot for clusters.
        weights: of the samples, brought to the class prior.
        sizes: share of each class in the weights.
        num_classes: number of classes.
        source: what made the labels.
        count_source: "given", "estimated", "reference", or "strategy" where that says the number of its classes.
    """

    labels: Int[Array, " n"]
    shares: Float[Array, "n k"]
    weights: Float[Array, " n"]
    sizes: Float[Array, " k"]
    num_classes: int = field(metadata={"static": True})
    source: str = field(metadata={"static": True})
    count_source: str = field(metadata={"static": True})

    def task(self, features: Float[Array, "n d"]) -> Task:
        """A task with these labels and other features of the same samples: a view, say."""
        return Task(features, self.labels, weights=self.weights, num_classes=self.num_classes)


def pseudo_label(
    target: Task,
    labels: Strategy | Int[ArrayLike, " n"] | Float[ArrayLike, "n k"] = ViewClusters(),  # noqa: B008 (immutable)
    *,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None = None,
    reference: Task | None = None,
    class_prior: ClassPrior = "clusters",
    key: Key = 0,
) -> PseudoLabels:
    """Give classes to the samples of a target without labels.

    Args:
        target: features, `(n, d)`; its labels are not looked at. `Task(features, num_classes=k)` gives the class count.
            Without it, strategies that name the classes or take those of the reference have their number, and for
            clusters it is estimated from the stability of clusters across views (`class_count`), which needs `views`.
        labels: a strategy (`ViewClusters()`, `KMeans()`, `GaussianMixture()`, `ReferenceHead()`,
            `TransportedClasses()`, `ClassNames(samples, names)`, or a function
            `(known, key, num_classes=k) -> shares (n, k)`), or labels `(n,)` or shares `(n, k)` of your own.
        views: features of two augmented views of the same samples.
        reference: the reference task, for the strategies that use it.
        class_prior: share of each class in the weights of the samples: `"clusters"` leaves what was found, `"uniform"`
            weighs the classes equally, numbers are given to the classes by size, the largest to the largest, as
            clusters have no names (in order of the classes where these are named or the reference's).
        key: of `jax.random`, or an integer; draws the starts of clusters.

    Inside `jit` and `vmap` values are not checked, and the class count is to be given.

    Raises:
        ValueError: for views of another shape or not finite, a strategy that lacks what it needs, shares that are not,
            an unknown class count without views, a prior that does not fit, a class that no sample has and a prior
            gives mass to.

    Examples:
        >>> import numpy as np
        >>> from jaxrel.pseudo_labels import KMeans
        >>> clusters = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[clusters] + np.random.default_rng(0).normal(size=(60, 4))
        >>> found = pseudo_label(Task(features, num_classes=3), KMeans())
        >>> [len(np.unique(found.labels[clusters == cluster])) for cluster in range(3)]
        [1, 1, 1]
    """
    if not isinstance(target, Task):
        raise ValueError(f"target must be a Task, got {type(target).__name__}: pass Task(features).")
    target = target.loaded()
    checked = None if views is None else checked_views(views, target)
    known = Known(target.features, target.weights, checked, reference)
    key = checked_key(key)
    if not callable(labels):
        labels = _given_shares(labels, target)
    num_classes, count_source = _class_count(target, labels, known, key)
    if callable(labels):
        _check_needs(labels, known)
        shares = jnp.asarray(labels(known, key, num_classes=num_classes))
        source = repr(labels) if not hasattr(labels, "__name__") else str(labels.__name__)
    else:
        shares, source = labels, "given"
    _check_shares(shares, target, num_classes, source)
    hard = jnp.argmax(shares, axis=1)
    mass = jnp.zeros(num_classes, target.weights.dtype).at[hard].add(target.weights)
    named = count_source == "reference" or not callable(labels) or _own_count(labels) is not None
    prior = _prior(class_prior, mass / jnp.sum(mass), named)
    weights = target.weights * (prior / jnp.where(mass > 0, mass, 1))[hard]
    return PseudoLabels(
        labels=hard,
        shares=shares,
        weights=weights / jnp.max(weights),
        sizes=prior,
        num_classes=num_classes,
        source=source,
        count_source=count_source,
    )


def checked_views(views: Any, target: Task) -> tuple[Array, Array]:
    """Two finite arrays of the target's shape; a ValueError says what is wrong."""
    if not isinstance(views, tuple | list) or len(views) != 2:
        raise ValueError("views must be a pair of arrays: features of two augmented views of the target samples.")
    live = target.weights > 0
    arrays = []
    for position, view in enumerate(views):
        array = jnp.asarray(real_array(f"views[{position}]", view), target.features.dtype)
        if array.shape != target.features.shape:
            raise ValueError(
                f"views[{position}] has shape {array.shape}, the target features {target.features.shape}: pass a row "
                "for every target sample, in the same order, of the same encoder."
            )
        if not is_traced(array, live):
            bad = np.argwhere(~np.isfinite(np.asarray(array)) & np.asarray(live)[:, None])
            if bad.size:
                raise ValueError(f"views[{position}][{bad[0][0]}, {bad[0][1]}] is not finite ({len(bad)} such values).")
        arrays.append(jnp.where(live[:, None], array, 0))
    return arrays[0], arrays[1]


def _check_needs(strategy: Any, known: Known) -> None:
    name = type(strategy).__name__
    if getattr(strategy, "needs_views", False) and known.views is None:
        raise ValueError(
            f"{name} needs views: pass features of two augmented views of the target samples, or another strategy, "
            "such as KMeans()."
        )
    if getattr(strategy, "needs_reference", False) and (known.reference is None or known.reference.labels is None):
        raise ValueError(f"{name} needs a labelled reference task: pass reference.")


def _own_count(strategy: Any) -> int | None:
    """The number of classes of a strategy that has classes of its own."""
    count: int | None = getattr(strategy, "num_classes", None)
    return count


def _class_count(target: Task, labels: Any, known: Known, key: PRNGKeyArray) -> tuple[int, str]:
    if target.num_classes is not None:
        return target.num_classes, "given"
    if (own := _own_count(labels)) is not None:
        return own, "strategy"
    if getattr(labels, "needs_reference", False) and known.reference is not None:
        return known.reference.labelled[1], "reference"
    if not callable(labels):
        return labels.shape[1], "given"
    if known.views is None or is_traced(known.features, known.weights, known.views):
        raise ValueError(
            "the number of target classes is unknown: pass Task(features, num_classes=k), or, outside of jit, views to "
            "estimate it from."
        )
    return _estimated_count(known, key), "estimated"


def _estimated_count(known: Known, key: PRNGKeyArray) -> int:
    assert known.views is not None  # noqa: S101 (for the type checker)
    whitening = view_whitening(known.features, *known.views, known.weights)
    first, second = (whitening(view) for view in known.views)
    most = max(2, int(np.count_nonzero(np.asarray(known.weights))) // _SAMPLES_A_CLASS)
    candidates = tuple(count for count in _CANDIDATES if count <= most) or (2,)
    return max(2, int(class_count(first, second, known.weights, key, candidates=candidates).count))


def _given_shares(labels: Any, target: Task) -> Float[Array, "n k"]:
    """Shares `(n, k)` as they are, labels one-hot."""
    array = to_array("labels", labels)
    if len(array.shape) == 2 and array.shape[1] > 1 and jnp.issubdtype(array.dtype, jnp.number):
        return jnp.asarray(real_array("labels", array), jnp.float32)
    if len(array.shape) not in (1, 2):
        raise ValueError(
            f"labels must be a strategy such as KMeans(), labels (n,) or shares (n, k), got shape {array.shape}."
        )
    classes = encoded_labels(
        labels,
        None if is_traced(target.weights) else np.asarray(target.weights) > 0,
        target.num_samples,
        num_classes=target.num_classes,
        class_names=target.class_names,
    )
    return jax.nn.one_hot(classes.labels, classes.num_classes)


def _check_shares(shares: Array, target: Task, num_classes: int, source: str) -> None:
    if shares.shape != (target.num_samples, num_classes):
        raise ValueError(
            f"pseudo-labels ({source}) have shape {shares.shape}, expected {(target.num_samples, num_classes)}: "
            "a row for each target sample and a column for each class."
        )
    if is_traced(shares, target.weights):
        return
    values = np.asarray(shares)[np.asarray(target.weights) > 0]
    if not np.isfinite(values).all() or (values < 0).any() or not np.allclose(values.sum(axis=1), 1, atol=1e-3):
        raise ValueError(f"pseudo-labels ({source}) must be shares of classes: not negative, rows that sum to 1.")


def _prior(class_prior: Any, found: Float[Array, " k"], named: bool) -> Float[Array, " k"]:
    if isinstance(class_prior, str):
        if class_prior == "clusters":
            return found
        if class_prior == "uniform":
            return ((found > 0) / jnp.sum(found > 0)).astype(found.dtype)
        raise ValueError(f"class_prior must be 'clusters', 'uniform' or a number for each class, got {class_prior!r}.")
    given = np.asarray(class_prior, np.float64)
    if given.shape != found.shape or not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise ValueError(
            f"class_prior must have {found.size} numbers >= 0 of positive sum, one for each class, got {class_prior!r}."
        )
    prior = jnp.asarray(given / given.sum(), found.dtype)
    if not named:
        prior = prior.at[jnp.argsort(-found, stable=True)].set(jnp.sort(prior, descending=True))
    lacking = (prior > 0) & (found == 0)
    if not is_traced(lacking) and lacking.any():
        empty = int(jnp.argmax(lacking))
        raise ValueError(
            f"class_prior gives {float(prior[empty]):.3g} to pseudo-class {empty}, which no sample has: pass "
            "class_prior='clusters', fewer classes or another strategy."
        )
    return prior
