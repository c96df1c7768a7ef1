"""Networks that halve the image from stage to stage, of checkpoints: ConvNeXt, Swin and the ResNets of CLIP.

[ConvNeXt](https://arxiv.org/abs/2201.03545) and [its second version](https://arxiv.org/abs/2301.00808),
[Swin](https://arxiv.org/abs/2103.14030) and the residual networks of [CLIP](https://arxiv.org/abs/2103.00020), of any
size: width and depth are read from the tensors.

Features are the pooled output that a classifier would get: the normalised mean over the image (ConvNeXt), the mean of
what is normalised (Swin), or attention pooling into the joint space with texts (CLIP); after an earlier stage they are
the mean over the image. They are tested against `transformers` and `timm`, within 1e-9 in float64. Weights may be
bfloat16, float32 or float64; products take operands of that type, residual sums, normalisation and softmax are float32
at least.
"""

from jaxrel.encoders.images.hierarchical.loading import FAMILIES, load_hierarchical, load_hierarchical_network

__all__ = ["FAMILIES", "load_hierarchical", "load_hierarchical_network"]
