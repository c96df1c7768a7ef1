"""Classes for unlabelled samples: `pseudo_label`, its strategies, and clustering kernels on weighted features."""

from jaxrel.pseudo_labels.class_count import ClassCount, adjusted_rand_index, class_count
from jaxrel.pseudo_labels.class_names import ClassNames, class_similarity
from jaxrel.pseudo_labels.gaussian_mixture import Mixture, gaussian_mixture
from jaxrel.pseudo_labels.kmeans import Clusters, kmeans, nearest_centres
from jaxrel.pseudo_labels.labelling import ClassPrior, PseudoLabels, checked_views, pseudo_label
from jaxrel.pseudo_labels.strategies import (
    GaussianMixture,
    KMeans,
    Known,
    ReferenceHead,
    Strategy,
    TransportedClasses,
    ViewClusters,
)
from jaxrel.pseudo_labels.view_whitening import ViewWhitening, view_whitening

__all__ = [
    "ClassCount",
    "ClassNames",
    "ClassPrior",
    "Clusters",
    "GaussianMixture",
    "KMeans",
    "Known",
    "Mixture",
    "PseudoLabels",
    "ReferenceHead",
    "Strategy",
    "TransportedClasses",
    "ViewClusters",
    "ViewWhitening",
    "adjusted_rand_index",
    "checked_views",
    "class_count",
    "class_similarity",
    "gaussian_mixture",
    "kmeans",
    "nearest_centres",
    "pseudo_label",
    "view_whitening",
]
