"""Vision transformers of Hugging Face checkpoints: ViT, CLIP and SigLIP (image towers), DINOv2, DINOv3, BEiT, data2vec.

[ViT](https://arxiv.org/abs/2010.11929), [CLIP](https://arxiv.org/abs/2103.00020),
[SigLIP](https://arxiv.org/abs/2303.15343), [DINOv2](https://arxiv.org/abs/2304.07193) with and without
[registers](https://arxiv.org/abs/2309.16588), [DINOv3](https://arxiv.org/abs/2508.10104),
[BEiT](https://arxiv.org/abs/2106.08254) and [data2vec](https://arxiv.org/abs/2202.03555) of images, of any size.

The layers of a block, rotary positions and attention pooling are those of the package `jax-image-models` (Flax NNX).
What it does with them is done here, in plain JAX operations on any device: its own calls need a mesh with explicit axes
around them, take 64 numbers for the width of every attention head, have another activation than SigLIP, and its loaders
leave tensors that they do not find at random.

Features are the pooled output before any projection: the class token after the last normalisation (ViT, CLIP, DINOv2,
DINOv3), SigLIP's attention pooling, or the normalised mean of the patches (BEiT, data2vec); those of "clip-image" are
after it, in the joint space with "clip-text". They are tested against `transformers`, within 1e-9 in float64. Rotary
angles are computed in the type of the network, where `transformers` has float32. Weights may be bfloat16, float32 or
float64; products take operands of that type, residual sums, normalisation and softmax are float32 at least.
"""

from jaxrel.encoders.images.preprocessor_config import CroppedPreprocessing
from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
from jaxrel.encoders.images.vision_transformers.loading import load_vision_transformer, load_vision_transformer_network
from jaxrel.encoders.images.vision_transformers.network import VisionTransformer

__all__ = [
    "CroppedPreprocessing",
    "VisionTransformer",
    "VisionTransformerConfig",
    "load_vision_transformer",
    "load_vision_transformer_network",
]
