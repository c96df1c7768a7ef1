"""Classes of unlabelled samples: clustering kernels on weighted features."""

from jaxrel.pseudo_labels.class_count import ClassCount, adjusted_rand_index, class_count
from jaxrel.pseudo_labels.gaussian_mixture import Mixture, gaussian_mixture
from jaxrel.pseudo_labels.kmeans import Clusters, kmeans, nearest_centres
from jaxrel.pseudo_labels.view_whitening import ViewWhitening, view_whitening

__all__ = [
    "ClassCount",
    "Clusters",
    "Mixture",
    "ViewWhitening",
    "adjusted_rand_index",
    "class_count",
    "gaussian_mixture",
    "kmeans",
    "nearest_centres",
    "view_whitening",
]
