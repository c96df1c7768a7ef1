"""The encoders of the zoo: what each is and how it was pre-trained; and which half it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = [
    "CONFIRMATION_TARGETS",
    "DEVELOPMENT_TARGETS",
    "IMAGENET",
    "MEMBERS",
    "SECOND_MEMBERS",
    "SECOND_TARGETS",
    "TARGETS",
    "Member",
]

DEVELOPMENT_TARGETS = ("mnist", "fashion-mnist", "animal-mnist", "digits")
CONFIRMATION_TARGETS = ("clip-art", "emoji")
TARGETS = DEVELOPMENT_TARGETS + CONFIRMATION_TARGETS
IMAGENET = "ImageNet"


@dataclass(frozen=True)
class Member:
    """An encoder of the zoo.

    Args:
        name: unique.
        group: members of a group differ in one thing; halves are drawn within groups.
        architecture: a key of `networks.ARCHITECTURES`, or a name of `jaxrel.encoders` in the group "ImageNet".
        sets: the sets it was pre-trained on, the classes of each its own.
        objective: "labels", "rotation" (which quarter turn), "reconstruction" or "denoising" (of the image, or of it
            under noise, from the features by a linear map), "contrast" (two views of an image against other images) or
            "none" (the initial weights). Small encoders are trained here; those of the group "ImageNet" come with
            their weights.
        num_images: images of each set it learns from, at most.
        label_noise: share of the labels that were replaced by random ones.
        view: "plain", "inverted" or "rotated" (by a quarter) pre-training images.
        half: "development" or "confirmation", or "second" of the second zoo.
    """

    name: str
    group: str
    architecture: str
    sets: tuple[str, ...] = ()
    objective: str = "labels"
    num_images: int = 8000
    label_noise: float = 0.0
    view: str = "plain"
    half: str = ""


SETS = {"M": "mnist", "F": "fashion-mnist", "A": "animal-mnist", "L": "lower case"}


def sets_of(letters: str) -> tuple[str, ...]:
    """The sets of their first letters."""
    return tuple(SETS[letter] for letter in letters)


def all_members() -> list[Member]:
    """Every encoder, in groups."""
    members = []

    def add(group: str, architecture: str, letters: str = "", **changes: object) -> None:
        label = "+".join(sets_of(letters)) or "nothing"
        name = f"{architecture}, {label}" + ("" if group == "labels" else f", {group}")
        members.append(Member(name, group.split(" ")[0], architecture, sets_of(letters), **changes))  # type: ignore[arg-type]

    for letters, architectures in (
        ("M", ("medium", "wide", "dense")),
        ("F", ("medium", "narrow", "averaged")),
        ("A", ("medium", "wide", "shallow")),
        ("MF", ("medium", "narrow", "dense")),
        ("MA", ("medium", "averaged", "shallow")),
        ("FA", ("medium", "wide", "narrow")),
        ("MFA", ("medium", "averaged", "wide")),
    ):
        for architecture in architectures:
            add("labels", architecture, letters)
    for letter in "MFA":
        for count, architecture in ((100, "medium"), (300, "wide"), (1000, "narrow"), (3000, "dense")):
            add(f"few {count} images", architecture, letter, num_images=count)
        for share, architecture in ((0.3, "medium"), (0.6, "averaged"), (0.9, "wide")):
            add(f"noise {share:.0%} of labels", architecture, letter, label_noise=share)
        add("random labels", "medium", letter, label_noise=1.0)
        add("inverted images", "medium", letter, view="inverted")
        add("rotated images", "medium", letter, view="rotated")
        add("turns told apart", "medium", letter, objective="rotation")
        add("reconstruction", "wide", letter, objective="reconstruction")
        add("contrast", "medium", letter, objective="contrast")
    for architecture in ("medium", "wide", "narrow", "shallow", "dense", "averaged"):
        add("untrained", architecture, objective="none")
    members.extend(
        Member(name, IMAGENET, name, ("imagenet",))
        for name in ("mobilenet-v2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    )
    members.append(Member("mobilenet-v2:random", IMAGENET, "mobilenet-v2:random", objective="none"))
    return members


def halved(members: list[Member]) -> tuple[Member, ...]:
    """Half of each group at random, the odd ones in turn, to development; the rest to confirmation."""
    generator = np.random.default_rng(20261123)
    halves: dict[str, str] = {}
    odd = 0
    for group in dict.fromkeys(member.group for member in members):
        names = generator.permutation([member.name for member in members if member.group == group])
        cut = (len(names) + odd) // 2
        odd ^= len(names) % 2
        halves |= {name: "development" if position < cut else "confirmation" for position, name in enumerate(names)}
    return tuple(replace(member, half=halves[member.name]) for member in members)


MEMBERS = halved(all_members())


def second_members() -> tuple[Member, ...]:
    """Encoders of other architectures, sets and seeds, which were made when every recipe was fixed."""
    plan = [
        *(("labels", "deep", letters, {}) for letters in ("L", "M", "A", "LF", "MFA")),
        *(("labels", "tiny", letters, {}) for letters in ("L", "F", "LM")),
        *(("labels", "broad", letters, {}) for letters in ("L", "LA", "LMF")),
        ("few 150 images", "deep", "L", {"num_images": 150}),
        ("few 500 images", "tiny", "F", {"num_images": 500}),
        ("few 1000 images", "broad", "M", {"num_images": 1000}),
        ("few 2000 images", "deep", "A", {"num_images": 2000}),
        ("noise 20% of labels", "broad", "L", {"label_noise": 0.2}),
        ("noise 50% of labels", "deep", "F", {"label_noise": 0.5}),
        ("noise 80% of labels", "tiny", "A", {"label_noise": 0.8}),
        ("random labels", "deep", "L", {"label_noise": 1.0}),
        ("inverted images", "deep", "F", {"view": "inverted"}),
        ("rotated images", "deep", "L", {"view": "rotated"}),
        ("turns told apart", "broad", "L", {"objective": "rotation"}),
        ("turns told apart", "deep", "MF", {"objective": "rotation"}),
        ("denoising", "deep", "L", {"objective": "denoising"}),
        ("denoising", "tiny", "MFA", {"objective": "denoising"}),
        ("contrast", "deep", "L", {"objective": "contrast"}),
        ("contrast", "broad", "F", {"objective": "contrast"}),
        *(("untrained", architecture, "", {"objective": "none"}) for architecture in ("deep", "tiny", "broad")),
    ]
    found = []
    for group, architecture, letters, changes in plan:
        name = f"{architecture}, {'+'.join(sets_of(letters)) or 'nothing'}, {group}"
        found.append(Member(name, group.split(" ")[0], architecture, sets_of(letters), half="second", **changes))  # type: ignore[arg-type]
    return tuple(found)


SECOND_TARGETS = ("letters", "scripts", "subjects", "turns", "counts")
SECOND_MEMBERS = second_members()
