"""Accuracy after transfer, measured by training: a linear probe on features, and end-to-end fine-tuning."""

from jaxrel.training.fine_tuning import FineTuning, TunedNetwork, fine_tune, has_parameters
from jaxrel.training.linear_probe import LinearProbe, fit_linear_probe
from jaxrel.training.partition import Partition, stratified_partition

__all__ = [
    "FineTuning",
    "LinearProbe",
    "Partition",
    "TunedNetwork",
    "fine_tune",
    "fit_linear_probe",
    "has_parameters",
    "stratified_partition",
]
