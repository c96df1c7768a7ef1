"""The metrics as others compute them, re-enacted: the same decompositions, loops and iteration counts.

Each function takes a `Problem` in float64, as the originals compute, and returns the score with the sign that jaxrel
gives it. Its docstring says what costs the time. Where there is no code of the authors, it is what numpy, scipy,
scikit-learn or POT offer. Two take torch and are skipped
without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln, logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from micro.problems import Problem

__all__ = ["ORIGINALS", "Original"]

FOLDS = 5
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
Value = float | np.ndarray


@dataclass(frozen=True)
class Original:
    """Someone else's way to compute a metric.

    Attributes:
        function: computes the score, or several.
        code: where the algorithm is from.
        differs: why the value is another one than jaxrel's, empty where the definition is the same.
    """

    function: Callable[[Problem], Value]
    code: str
    differs: str


ORIGINALS: dict[str, Original] = {}


def original(code: str, *, differs: str = "") -> Callable[[Callable[[Problem], Value]], Callable[[Problem], Value]]:
    """Enter a function into `ORIGINALS` under its own name."""

    def entered(function: Callable[[Problem], Value]) -> Callable[[Problem], Value]:
        ORIGINALS[function.__name__] = Original(function, code, differs)
        return function

    return entered


def classes_of(labels: np.ndarray) -> range:
    """All classes up to the largest label."""
    return range(int(labels.max()) + 1)


def indicators(labels: np.ndarray) -> np.ndarray:
    """One-hot rows."""
    return np.eye(len(classes_of(labels)))[labels]


@original("thuml/LogME, form of the paper; tllib")
def logme(problem: Problem) -> float:
    """A full singular value decomposition of the d x d products; for each class up to 11 steps of O(n d)."""
    return evidence_by_steps(problem.features, indicators(problem.labels))


@original("thuml/LogME, form of the paper; tllib")
def logme_regression(problem: Problem) -> float:
    """As `logme`, for each target."""
    return evidence_by_steps(problem.features, problem.targets)


def evidence_by_steps(features: np.ndarray, targets: np.ndarray) -> float:
    """Mean evidence, weights and residuals formed anew in every step."""
    n, d = features.shape
    v, s, vh = np.linalg.svd(features.T @ features, full_matrices=True)

    def evidence(y: np.ndarray) -> float:
        alpha = beta = 1.0
        projected = vh @ (features.T @ y)
        for _ in range(11):
            ratio = alpha / beta
            gamma = np.sum(s / (s + ratio))
            weights = v @ (projected * beta / (alpha + beta * s))
            size, error = np.sum(weights**2), np.sum((y - features @ weights) ** 2)
            alpha, beta = gamma / (size + 1e-5), (n - gamma) / (error + 1e-5)
            if abs(alpha / beta - ratio) / ratio < 0.01:
                break
        fit = d * np.log(alpha) + n * np.log(beta) - np.sum(np.log(alpha + beta * s))
        return float(fit - beta * error - alpha * size - n * np.log(2 * np.pi)) / (2 * n)

    return float(np.mean([evidence(np.ascontiguousarray(y)) for y in targets.T]))


@original("thuml/LogME, later form, its default")
def logme_truncated(problem: Problem) -> float:
    """Left vectors from a decomposition of the d x d products; for each class up to 11 steps of O(d)."""
    features = problem.features
    n, d = features.shape
    _, squares, vh = np.linalg.svd(features.T @ features)
    values = np.sqrt(squares)
    rank = int(np.sum(values > 1e-10))
    s, vh = values[:rank] ** 2, vh[:rank]
    u = features @ vh.T / values[:rank]

    def evidence(y: np.ndarray) -> float:
        alpha = beta = 1.0
        z = u.T @ y
        outside = np.sum(y**2) - np.sum(z**2)
        for _ in range(11):
            ratio = alpha / beta
            gamma = np.sum(s / (s + ratio))
            size = np.sum(s * z**2 / (ratio + s) ** 2)
            error = np.sum((z / (1 + s / ratio)) ** 2) + outside
            alpha, beta = gamma / (size + 1e-5), (n - gamma) / (error + 1e-5)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        fit = d * np.log(alpha) + n * np.log(beta) - np.sum(np.log(alpha + beta * s))
        return float(fit - beta * error - alpha * size - n * np.log(2 * np.pi)) / (2 * n)

    return float(np.mean([evidence(y) for y in indicators(problem.labels).T]))


@original("thuml/LogME")
def leep(problem: Problem) -> float:
    """A loop over classes and one over samples."""
    return float(np.mean(np.log(expected_predictions(problem.source_probabilities, problem.labels))))


def expected_predictions(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of each label under the expected empirical predictor."""
    joint = np.stack([np.sum(probabilities[labels == c], axis=0) for c in classes_of(labels)])
    predicted = probabilities @ (joint / joint.sum(axis=0)).T
    return np.array([row[label] for row, label in zip(predicted, labels, strict=True)])


@original("thuml/LogME")
def nce(problem: Problem) -> float:
    """A loop over samples."""
    joint = np.zeros((int(problem.labels.max()) + 1, int(problem.source_labels.max()) + 1))
    for source, label in zip(problem.source_labels, problem.labels, strict=True):
        joint[int(label), int(source)] += 1 / len(problem.labels)
    conditional = joint / np.maximum(joint.sum(axis=0), 1e-300)
    return float(np.sum(joint * np.log(np.where(conditional > 0, conditional, 1))))


@original("TencentARC/SFDA", differs="components with full covariances, no logarithm there")
def nleep(problem: Problem) -> float:
    """A mixture of five Gaussians a class with full covariances, up to 100 rounds of decompositions of each."""
    reduced = PCA(n_components=0.8).fit_transform(problem.features)
    mixture = GaussianMixture(n_components=5 * len(classes_of(problem.labels)), random_state=0).fit(reduced)
    return float(np.mean(np.log(expected_predictions(mixture.predict_proba(reduced), problem.labels))))


def at_class_means(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Every sample moved to the mean of its class."""
    means = np.zeros_like(features)
    for c in classes_of(labels):
        means[labels == c] = np.mean(features[labels == c], axis=0)
    return means


@original("thuml/Transfer-Learning-Library")
def h_score(problem: Problem) -> float:
    """Two d x d covariances, a pseudo-inverse and a whole product for one trace."""
    covariance = np.cov(problem.features, rowvar=False)
    between = np.cov(at_class_means(problem.features, problem.labels), rowvar=False)
    return float(np.trace(np.linalg.pinv(covariance, rcond=1e-15) @ between))


@original("thuml/Transfer-Learning-Library")
def regularised_h_score(problem: Problem) -> float:
    """scikit-learn's Ledoit-Wolf, then as `h_score`."""
    centred = problem.features - problem.features.mean(axis=0)
    fit = LedoitWolf(assume_centered=False, store_precision=False).fit(centred)
    between = np.cov(at_class_means(centred, problem.labels), rowvar=False)
    inverse = np.linalg.pinv(fit.covariance_, rcond=1e-15)
    return float(np.trace(inverse @ ((1 - fit.shrinkage_) * between)))


@original("thuml/Transfer-Learning-Library")
def transrate(problem: Problem) -> float:
    """A determinant of d x d for all samples, and one more for each class."""
    centred = problem.features - problem.features.mean(axis=0)

    def rate(rows: np.ndarray) -> float:
        n, d = rows.shape
        return float(np.linalg.slogdet(np.eye(d) + rows.T @ rows / (n * 1e-4))[1]) / 2

    return rate(centred) - float(np.mean([rate(centred[problem.labels == c]) for c in classes_of(problem.labels)]))


Eigenvectors = Callable[[np.ndarray, np.ndarray], np.ndarray]


def discriminant_probabilities(
    features: np.ndarray, labels: np.ndarray, shrinkage: float | None, eigenvectors: Eigenvectors
) -> tuple[np.ndarray, float]:
    """Class probabilities under a shrunk discriminant analysis, and the shrinkage; a d x d covariance a class."""
    priors = np.bincount(labels) / len(labels)
    means = np.zeros((len(priors), features.shape[1]))
    np.add.at(means, labels, features)
    means /= np.bincount(labels)[:, None]
    within = sum(prior * np.cov(features[labels == c].T, bias=True) for c, prior in enumerate(priors))
    if shrinkage is None:
        shrinkage = max(math.exp(-5 * largest_eigenvalue(within)), 1e-10)
    shrunk = [shrunk_covariance(matrix, shrinkage) for matrix in (within, np.cov(features.T, bias=True))]
    vectors = eigenvectors(shrunk[1] - shrunk[0], shrunk[0])
    coefficients = means @ vectors @ vectors.T
    intercepts = -0.5 * np.diag(means @ coefficients.T) + np.log(priors)
    return softmax(features @ coefficients.T + intercepts, axis=1), shrinkage


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """By a few power steps from the row sums."""
    vector = matrix.sum(axis=1)
    for _ in range(6):
        before, vector = vector, matrix @ vector
        vector = vector / np.linalg.norm(vector)
    return float(vector @ matrix @ (before / np.linalg.norm(before)))


def shrunk_covariance(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """A covariance moved towards a multiple of the identity."""
    d = len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)


@original("TencentARC/SFDA")
def sfda(problem: Problem) -> float:
    """Twice a covariance for each class and a generalised eigenproblem of d x d."""
    features, labels = problem.features.copy(), problem.labels

    def generalised(between: np.ndarray, within: np.ndarray) -> np.ndarray:
        return scipy.linalg.eigh(between, within)[1]

    first, shrinkage = discriminant_probabilities(features, labels, None, generalised)
    softened = np.exp(first) / np.exp(first).sum(axis=1, keepdims=True)
    means = np.stack([features[labels == c].mean(axis=0) for c in classes_of(labels)])
    for c in classes_of(labels):
        own = softened[labels == c, c][:, None]
        others = (means.sum(axis=0) - means[c]) / (len(means) - 1)
        features[labels == c] = own * features[labels == c] + (1 - own) * others
    second, _ = discriminant_probabilities(features, labels, shrinkage, generalised)
    return float(np.mean(second[np.arange(len(labels)), labels]))


@original("mgholamikn/ETran", differs="eigenvectors of a matrix taken for symmetric there")
def discriminant(problem: Problem) -> float:
    """A covariance for each class, an inverse and an eigenproblem of d x d."""
    probabilities, _ = discriminant_probabilities(
        problem.features,
        problem.labels,
        None,
        lambda between, within: np.linalg.eigh(np.linalg.inv(within) @ between)[1],
    )
    return float(np.mean(probabilities[np.arange(len(problem.labels)), problem.labels]))


@original("mgholamikn/ETran")
def energy(problem: Problem) -> float:
    """One pass over the features."""
    torch = pytest.importorskip("torch")
    energies = torch.logsumexp(torch.from_numpy(problem.features), dim=-1).numpy()
    return float(energies[np.argsort(energies)[: 5 * len(energies) // 1000]].mean())


@original("BUserName/NCTI")
def ncti(problem: Problem) -> np.ndarray:
    """A randomised decomposition for 64 components; all else is small."""
    features, labels = problem.features, problem.labels
    pca = PCA(n_components=min(64, features.shape[1]), random_state=0)
    reduced = pca.fit_transform(features)
    shrinkage = max(math.exp(-pca.explained_variance_[:32].sum()), 1e-10)
    solver = {"solver": "svd"} if shrinkage == 1e-10 else {"solver": "eigen", "shrinkage": shrinkage}
    analysis = LinearDiscriminantAnalysis(**solver)
    discriminants = analysis.fit_transform(reduced, labels)
    probabilities = analysis.predict_proba(reduced)
    simplex = np.linalg.norm(discriminants - discriminants.mean(axis=0), ord="nuc")
    own = np.mean(probabilities[np.arange(len(labels)), labels])
    within = sum(np.linalg.norm(probabilities[labels == c], ord="nuc") for c in classes_of(labels))
    return np.array([simplex, own, np.log(within)])


@original(
    "google-research/stable_transfer", differs="the determinant of a spherical covariance lacks the power d there"
)
def gbc(problem: Problem) -> float:
    """A loop over all ordered pairs of classes."""
    groups = [problem.features[problem.labels == c] for c in classes_of(problem.labels)]
    means = [group.mean(axis=0) for group in groups]
    variances = [np.mean(np.maximum(group.var(axis=0), 1e-4)) for group in groups]
    total = 0.0
    for i, j in itertools.permutations(range(len(groups)), 2):
        middle = (variances[i] + variances[j]) / 2
        spread = np.log(middle) - (np.log(variances[i]) + np.log(variances[j])) / 2
        total -= np.exp(-np.sum((means[i] - means[j]) ** 2 / middle) / 8 - spread / 2)
    return float(total)


def updated(
    problem: Problem, evidence: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prior, posterior and what responsibilities cost, after ten updates that each sum n x c x s numbers."""
    labels = indicators(problem.labels)
    prior = labels.mean(axis=0)[:, None] + 1e-10
    log_source = np.log(problem.source_probabilities + 1e-10)
    shares = problem.source_probabilities
    for _ in range(10):
        posterior = prior + np.sum(np.einsum("by,bz->byz", labels, shares), axis=0)
        logits = log_source + evidence(posterior)
        log_shares = logits - logsumexp(logits, axis=-1, keepdims=True)
        shares = np.exp(log_shares)
    return prior, posterior, shares * (log_shares - log_source)


@original("google-research/pactran_metrics")
def pactran_dirichlet(problem: Problem) -> float:
    """Ten times an array of n x c x s numbers, for one sum."""
    labels = indicators(problem.labels)
    prior, posterior, divergence = updated(
        problem, lambda posterior: labels @ digamma(posterior) - digamma(posterior.sum(axis=0))
    )
    before = gammaln(prior.sum()) - gammaln(prior).sum()
    after = gammaln(posterior.sum(axis=0)) - gammaln(posterior).sum(axis=0)
    return float(np.sum(before - after - divergence.sum(axis=0)) / labels.size)


@original("google-research/pactran_metrics")
def pactran_gamma(problem: Problem) -> float:
    """As `pactran_dirichlet`."""
    labels = indicators(problem.labels)
    prior, posterior, divergence = updated(problem, lambda posterior: labels @ digamma(posterior))
    expected = problem.source_probabilities @ posterior.sum(axis=0)
    loss = np.sum(gammaln(prior) - gammaln(posterior)) + np.sum(divergence.sum(axis=1) + np.log(expected) - 1)
    return -float(loss / labels.size + 1)


@original("google-research/pactran_metrics", differs="stops after 100 steps there")
def pactran_gaussian(problem: Problem) -> float:
    """100 steps of L-BFGS over (d + 1) c weights, two products with the features each."""
    features, labels = problem.features - problem.features.mean(axis=0), indicators(problem.labels)
    (n, d), c = features.shape, labels.shape[1]

    def logits_of(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = theta.reshape(d + 1, c)
        return weights[:d], features @ weights[:d] + weights[d]

    def loss(theta: np.ndarray) -> float:
        weights, logits = logits_of(theta)
        log_probabilities = logits - logsumexp(logits, axis=1, keepdims=True)
        return float(-np.sum(labels * log_probabilities) / n + np.sum(weights**2) / (2 * n))

    def gradient(theta: np.ndarray) -> np.ndarray:
        weights, logits = logits_of(theta)
        residuals = (softmax(logits, axis=1) - labels) / n
        return np.concatenate([features.T @ residuals + weights / n, residuals.sum(axis=0, keepdims=True)]).ravel()

    start = np.concatenate([0.03 * np.random.default_rng(0).normal(size=(d, c)), np.zeros((1, c))]).ravel()
    theta = scipy.optimize.minimize(loss, start, method="L-BFGS-B", jac=gradient, options={"maxiter": 100}, tol=1e-6).x
    probabilities = softmax(logits_of(theta)[1], axis=1)
    curvature = probabilities - probabilities**2
    trace = np.sum(np.square(features).T @ curvature + 1 / n) + np.sum(curvature)
    return -loss(theta) - 10 * c / (2 * n) * math.log(trace * n / (d * c))


@original("dbolya/parc", differs="the rounding of label dissimilarities is ranked there")
def parc(problem: Problem) -> float:
    """Two n x n correlation matrices, and the ranks of all pairs twice."""
    pairs = np.triu_indices(len(problem.labels), 1)
    features = 1 - np.corrcoef(StandardScaler().fit_transform(problem.features))
    labels = 1 - np.corrcoef(indicators(problem.labels))
    return float(scipy.stats.spearmanr(features[pairs], labels[pairs])[0])


@original("Ba1Jun/model-selection-nlp; Model Spider")
def lfc(problem: Problem) -> float:
    """Two n x n matrices."""
    products = problem.features @ problem.features.T
    products -= np.mean(products)
    agreement = (problem.labels[:, None] == problem.labels) * 2.0 - 1
    agreement -= np.mean(agreement)
    return float(np.sum(products * agreement) / np.sqrt(np.sum(products**2) * np.sum(agreement**2)))


@original("scikit-learn")
def silhouette(problem: Problem) -> float:
    """Distances of all pairs, in chunks of rows."""
    return float(silhouette_score(problem.features, problem.labels))


@original("flairNLP/transformer-ranker")
def nearest_neighbours(problem: Problem) -> float:
    """Distances of 1,024 rows at a time to all, by torch in float32 as there."""
    torch = pytest.importorskip("torch")
    features = torch.from_numpy(problem.features.astype(np.float32))
    labels = torch.from_numpy(problem.labels)
    found = []
    for start in range(0, len(labels), 1024):
        distances = torch.cdist(features[start : start + 1024], features)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf
        found.append(distances.topk(1, largest=False).indices)
    votes = torch.mode(labels[torch.cat(found)], dim=1).values
    return float((votes == labels).double().mean())


@original("scikit-learn")
def ridge_probe(problem: Problem) -> float:
    """A regression for each fold and ridge, 35 in all, with a d x d system each."""
    features, labels = StandardScaler().fit_transform(problem.features), problem.labels
    targets = indicators(labels)
    earlier = np.cumsum(targets, axis=0)[np.arange(len(labels)), labels].astype(int) - 1
    errors, accuracies = [], []
    for ridge in RIDGES:
        responses = np.empty_like(targets)
        for fold in range(FOLDS):
            train = earlier % FOLDS != fold
            model = Ridge(alpha=ridge * train.sum()).fit(features[train], targets[train])
            responses[~train] = model.predict(features[~train])
        errors.append(np.sum((responses - targets) ** 2))
        accuracies.append(np.mean(responses.argmax(axis=1) == labels))
    return float(accuracies[int(np.argmin(errors))])


@original("numpy")
def rankme(problem: Problem) -> float:
    """Singular values of the features."""
    values = np.linalg.svd(problem.features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


@original("numpy")
def alpha_req(problem: Problem) -> float:
    """Eigenvalues of the d x d covariance."""
    values = np.linalg.eigvalsh(np.cov(problem.features, rowvar=False))[::-1]
    index = np.arange(1, len(values) + 1)
    slope = np.polyfit(np.log(index), np.log(values), 1, w=np.sqrt(1 / index))[0]
    return -abs(-slope - 1)


@original("scipy")
def energy_distance(problem: Problem) -> float:
    """Three n x n matrices of distances."""
    x, y = problem.features, problem.reference_features
    across = 2 * np.mean(cdist(x, y))
    return -float((across - np.mean(cdist(x, x)) - np.mean(cdist(y, y))) / across)


@original("scipy")
def mmd(problem: Problem) -> float:
    """Distances of all pairs of both samples, and their median."""
    n = len(problem.features)
    points = np.concatenate([problem.features, problem.reference_features])
    squares = cdist(points, points, "sqeuclidean")
    kernel = np.exp(squares / (-2 * np.median(squares[squares > 0])))
    return -float(np.mean(kernel[:n, :n]) + np.mean(kernel[n:, n:]) - 2 * np.mean(kernel[:n, n:]))


@original("google-research/representation_similarity; dbolya/parc")
def cka(problem: Problem) -> float:
    """Two n x n matrices."""

    def centred_products(features: np.ndarray) -> np.ndarray:
        products = features @ features.T
        means = products.mean(axis=0)
        means -= means.mean() / 2
        return products - means[:, None] - means

    x, y = centred_products(problem.features), centred_products(problem.aligned_features)
    return float(x.ravel() @ y.ravel() / (np.linalg.norm(x) * np.linalg.norm(y)))


@original("numpy")
def maximum_probability(problem: Problem) -> float:
    """One pass over the probabilities."""
    return float(np.mean(np.max(problem.source_probabilities, axis=1)))


def row_entropies(probabilities: np.ndarray) -> np.ndarray:
    """In nats."""
    return -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-300)), axis=-1)


@original("numpy")
def negative_entropy(problem: Problem) -> float:
    """One pass over the probabilities."""
    return -float(np.mean(row_entropies(problem.source_probabilities)))


@original("numpy")
def information_maximisation(problem: Problem) -> float:
    """One pass over the probabilities."""
    return float(
        row_entropies(problem.source_probabilities.mean(axis=0)) - np.mean(row_entropies(problem.source_probabilities))
    )


def uniform(labels: np.ndarray) -> np.ndarray:
    """Weights of samples."""
    return np.full(len(labels), 1 / len(labels))


def simplex_plan(problem: Problem, cost: np.ndarray, most_steps: int) -> np.ndarray:
    """POT's network simplex."""
    plan: np.ndarray = ot.emd(uniform(problem.reference_labels), uniform(problem.labels), cost, numItermax=most_steps)
    return plan


def entropy_of_plan(problem: Problem, plan: np.ndarray) -> float:
    """Conditional entropy of labels; for each pair of classes the entries of the plan are collected one by one."""
    joint = np.zeros((len(classes_of(problem.reference_labels)), len(classes_of(problem.labels))))
    for source, target in np.ndindex(joint.shape):
        rows = np.where(problem.reference_labels == source)[0]
        columns = np.where(problem.labels == target)[0]
        joint[source, target] = np.sum(plan[rows.repeat(len(columns)), np.tile(columns, len(rows))])
    conditional = joint / joint.sum(axis=1, keepdims=True)
    return -float(np.sum(joint * np.log(np.where(joint > 0, conditional, 1))))


def coupled(problem: Problem) -> tuple[float, float]:
    """Cost of an optimal plan, and its conditional entropy."""
    cost = ot.dist(problem.reference_features, problem.features)
    plan = simplex_plan(problem, cost, 100_000)
    return float(np.sum(plan * cost)), entropy_of_plan(problem, plan)


@original("tanyang1231/OTCE_Transferability_CVPR21; POT")
def otce(problem: Problem) -> np.ndarray:
    """The network simplex on n x n costs, at most 100,000 steps; a loop over pairs of classes."""
    return np.array(coupled(problem))


@original("tanyang1231/OTCE_Transferability_CVPR21; POT")
def ot_nce(problem: Problem) -> float:
    """As `otce`."""
    return -coupled(problem)[1]


@original("POT")
def f_otce(problem: Problem) -> float:
    """Sinkhorn's algorithm on n x n costs, at most 1,000 iterations; a loop over pairs of classes."""
    cost = ot.dist(problem.reference_features, problem.features)
    return -entropy_of_plan(problem, ot.sinkhorn(uniform(problem.reference_labels), uniform(problem.labels), cost, 0.1))


def exact_label_distances(problem: Problem, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A network simplex for each pair of classes."""
    sources = [x[problem.reference_labels == c] for c in classes_of(problem.reference_labels)]
    targets = [y[problem.labels == c] for c in classes_of(problem.labels)]
    return np.array([[ot.emd2([], [], ot.dist(source, target)) for target in targets] for source in sources])


@original("POT")
def jc_otce(problem: Problem) -> float:
    """A network simplex for each pair of classes; then as `f_otce`."""
    x, y = problem.reference_features, problem.features
    labels = exact_label_distances(problem, x, y)[np.ix_(problem.reference_labels, problem.labels)]
    plan = ot.sinkhorn(uniform(problem.reference_labels), uniform(problem.labels), (ot.dist(x, y) + labels) / 2, 0.1)
    return -entropy_of_plan(problem, plan)


@original("microsoft/otdd; POT")
def otdd(problem: Problem) -> float:
    """A network simplex for each pair of classes, and one on n x n costs."""
    x, y = problem.reference_features, problem.features
    return dataset_distance(problem, exact_label_distances(problem, x, y))


def dataset_distance(problem: Problem, label_distances: np.ndarray) -> float:
    """Optimal transport of samples and labels."""
    cost = ot.dist(problem.reference_features, problem.features)
    cost += label_distances[np.ix_(problem.reference_labels, problem.labels)]
    return float(np.sum(simplex_plan(problem, cost, 1_000_000) * cost))


@original("microsoft/otdd; POT", differs="covariances are divided by one less than the number of samples there")
def otdd_gaussian(problem: Problem) -> float:
    """A d x d matrix root, by eigenvectors in float32 as there, for each pair of classes; then as `otdd`."""

    def moments(features: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        groups = [features[labels == c].astype(np.float32) for c in classes_of(labels)]
        return [(group.mean(axis=0), np.cov(group, rowvar=False, dtype=np.float32)) for group in groups]

    def distance(
        source: tuple[np.ndarray, np.ndarray], root: np.ndarray, target: tuple[np.ndarray, np.ndarray]
    ) -> float:
        cross = matrix_root(root @ target[1] @ root)
        bures = np.trace(source[1]) + np.trace(target[1]) - 2 * np.trace(cross)
        return float(np.sum((source[0] - target[0]) ** 2) + bures)

    sources = moments(problem.reference_features, problem.reference_labels)
    targets = moments(problem.features, problem.labels)
    roots = [matrix_root(covariance) for _, covariance in sources]
    rows = [[distance(source, root, target) for target in targets] for source, root in zip(sources, roots, strict=True)]
    return dataset_distance(problem, np.array(rows))


def matrix_root(matrix: np.ndarray) -> np.ndarray:
    """Of a positive semidefinite matrix; eigenvalues that are rounding are taken for 0."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.where(values > values[-1] * len(values) * np.finfo(values.dtype).eps, values, 0)
    root: np.ndarray = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    return root
