"""Linear heads on features, and how to fit them."""

from jaxrel.heads.gradient_penalty import gradient_penalised_head
from jaxrel.heads.head import Head, cross_entropy, zero_head
from jaxrel.heads.regression import fit_head, one_step_head

__all__ = ["Head", "cross_entropy", "fit_head", "gradient_penalised_head", "one_step_head", "zero_head"]
