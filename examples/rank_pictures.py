"""Rank encoders of images, one of them your own function, on a folder of pictures.

    python examples/rank_pictures.py FOLDER [OUTPUT]

FOLDER has one folder of pictures for each class; `--demo` in its place draws some.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from jaxrel import study
from jaxrel.encoders import from_function


def colours(images: Float[Array, "b h w 3"]) -> Float[Array, "b 6"]:
    """Mean and deviation of each channel."""
    return jnp.concatenate([jnp.mean(images, (1, 2)), jnp.std(images * 1.0, (1, 2))], axis=1)


def draw_pictures(folder: Path) -> None:
    """Write pictures of two classes, bright squares and dark stripes."""
    generator = np.random.default_rng(0)
    for name in ("squares", "stripes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(40):
            picture = generator.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            if name == "squares":
                picture[8:24, 8:24] += 150
            else:
                picture[:: generator.integers(2, 5)] += 90
            Image.fromarray(picture).save(folder / name / f"{number}.png")


def main(folder: str, output: str) -> None:
    """Rank raw pixels and colours, and print the table."""
    if folder == "--demo":
        folder = str(Path(output) / "pictures")
        draw_pictures(Path(folder))
    own = from_function(colours, name="colours", version="1", image_size=32)
    ranking = study.rank([folder], [own, "pixels"], output=str(Path(output) / "results"))
    print(ranking.to_text())


if __name__ == "__main__":
    main(*(sys.argv[1:] if len(sys.argv) > 2 else [*sys.argv[1:], "jaxrel-example"]))
