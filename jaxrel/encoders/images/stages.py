"""What networks of images in stages have in common: features after any stage, of one pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from flax import nnx
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.layers import global_mean

__all__ = ["StagedNetwork", "checked_stage"]


class StagedNetwork(nnx.Module):
    """A network whose features are the mean over the image after a stage, and after the last whatever it defines.

    Attributes:
        stages: a module each, or the list of its blocks.
        layer: the stage, from 1, after which features are taken. The variables of all stages are kept, so that weight
            files fit.
    """

    stages: Any
    layer: int

    def __call__(self, images: Float[Array, "b h w 3"]) -> EncoderOutput:
        """Features of preprocessed images and, after the last stage, logits if there is a classifier."""
        return self._outputs(images, (self.layer,))[0]

    def features_of_layers(
        self, images: Float[Array, "b h w 3"], *, layers: Sequence[int]
    ) -> tuple[Float[Array, "b _"], ...]:
        """Features of preprocessed images after each of the stages, in one pass."""
        return tuple(output.features for output in self._outputs(images, layers))

    def stopped_after(self, layer: int) -> Self:
        """The network of the same variables that stops after a stage; ValueError if there is no such stage."""
        network: Self = nnx.merge(*nnx.split(self))
        network.layer = checked_stage(layer, len(self.stages))
        return network

    def _outputs(self, images: Float[Array, "b h w 3"], layers: Sequence[int]) -> list[EncoderOutput]:
        x, outputs = self._before_stages(images), {}
        for layer, stage in enumerate(list(self.stages)[: max(layers)], start=1):
            for block in stage if isinstance(stage, nnx.List) else [stage]:
                x = block(x)
            if layer in layers:
                outputs[layer] = self._last(x) if layer == len(self.stages) else EncoderOutput(global_mean(x), None)
        return [outputs[layer] for layer in layers]

    @abstractmethod
    def _before_stages(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """What the first stage takes."""

    @abstractmethod
    def _last(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        """Features and logits after the last stage."""


def checked_stage(layer: int | None, last: int) -> int:
    """The number of a stage, from 1; by default the last.

    Raises:
        ValueError: there is no such stage.
    """
    if layer is None:
        return last
    if layer not in range(1, last + 1):
        raise ValueError(f"layer must be one of 1 to {last}, got {layer!r}")
    return layer
