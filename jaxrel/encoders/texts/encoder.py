"""Makes an encoder from a tokenizer and a network of tokens."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrel._core.programs import compiled
from jaxrel._core.text_samples import TextKind
from jaxrel.encoders.encoder import (
    REVISION,
    Encoder,
    EncoderOutput,
    Layers,
    apply_layers,
    as_output,
    check_finite,
    fingerprint,
)
from jaxrel.encoders.texts.tokenisation import Tokenisation
from jaxrel.encoders.texts.tokens import TokenBatch, Tokens, pad

if TYPE_CHECKING:
    from flax import nnx
    from tokenizers import Tokenizer

__all__ = ["apply", "make_encoder", "sha256", "text_encoder"]


def text_encoder(
    network: nnx.Module,
    tokenizer: Tokenizer,
    *,
    name: str,
    max_length: int,
    prompt: str = "",
    pools_prompt: bool = True,
    has_types: bool = True,
    description: str = "",
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make a text encoder from a Flax NNX network and its tokenizer.

    Args:
        network: maps token ids `(b, s)` int32 and their mask `(b, s)` bool to an :class:`EncoderOutput`. Its variables
            are taken as they are now. If it also takes `types`, `(b, s)` int32, the encoder takes pairs of texts; if it
            takes `pooled`, `(b, s)` bool, which is true for the tokens whose states make the features, it takes words
            in sentences. Both are passed by name, and only where they are needed: see
            :class:`jaxrel.encoders.texts.TokenBatch`. Where it has `stopped_after(layer)`,
            `features_of_layers(ids, mask, *, layers)` with the same options, and a `description`, as those of this
            library, the encoder has `layers`.
        tokenizer: of the package `tokenizers`; it adds the special tokens. Its own padding and truncation are not used.
        name: the encoder's name, part of its fingerprint: networks that differ in more than their variables need
            different names or descriptions.
        max_length: texts are truncated to this many tokens, including special ones.
        prompt: prefix of each text, of the first text of each pair, or of each sentence.
        pools_prompt: whether the states of the tokens of the prompt are among those that make the features.
        has_types: whether a network that takes `types` is given those of the tokenizer, or none.
        description: settings of the network that its variables do not show (how it pools, say), for the fingerprint.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: `max_length` leaves no room for a token of the text, or is more than the network takes; or the
            prompt is not to be pooled and the network does not take `pooled`.
    """
    from flax import nnx

    taken = inspect.signature(type(network).__call__).parameters
    if not pools_prompt and "pooled" not in taken:
        raise ValueError(
            f"the network of {name} does not take pooled, so that it pools prompts: pass pools_prompt=True"
        )
    tokenise = Tokenisation(
        tokenizer,
        max_length=max_length,
        prompt=prompt,
        pools_prompt=pools_prompt,
        has_types=has_types,
        takes=["text", *(kind for kind, option in _OPTIONS.items() if option in taken)],
        name=name,
    )
    content = tokenise.tokenizer.to_str()
    before, after = (f"prompt={prompt!r} ", f", after {prompt!r}") if prompt else ("", "")
    before += ("" if pools_prompt else "not pooled ") + ("" if has_types else "without types ")
    graph, state = nnx.split(network)
    check_finite(state)
    encoder = make_encoder(
        tokenise,
        partial(apply, graph),
        state,
        max_length=max_length,
        identity=f"{REVISION} {name} {max_length} {before}{description} {content}",
        name=name,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))),
        pretraining=pretraining,
        licence=licence,
        preprocessing=f"tokenizer of SHA-256 {sha256(content)}, at most {max_length} tokens{after}",
    )
    if not hasattr(network, "features_of_layers"):
        return encoder

    def stopped(layer: int) -> Encoder:
        whole: Any = nnx.merge(graph, state)
        earlier = whole.stopped_after(layer)
        return text_encoder(
            earlier,
            tokenizer,
            name=f"{name}#{layer}",
            max_length=max_length,
            prompt=prompt,
            pools_prompt=pools_prompt,
            has_types=has_types,
            description=earlier.description,
            pretraining=pretraining,
            licence=licence,
        )

    return replace(encoder, layers=Layers(stopped, partial(_layers_of_tokens, graph), state))


_OPTIONS: Mapping[TextKind, str] = {"pair": "types", "word": "pooled"}
"""The option of a network that each kind of samples needs."""


# At module level, so that encoders of one architecture share what is compiled.
@partial(compiled, static_argnums=0)
def apply(graph: nnx.GraphDef[Any], state: nnx.State[Any, Any], tokens: TokenBatch) -> EncoderOutput:
    """What a network gives for tokens."""
    from flax import nnx

    return as_output(nnx.merge(graph, state)(tokens.ids, tokens.mask, **tokens.options))


def _layers_of_tokens(
    graph: nnx.GraphDef[Any], layers: tuple[int, ...], state: nnx.State[Any, Any], tokens: TokenBatch
) -> tuple[jax.Array, ...]:
    features: tuple[jax.Array, ...] = apply_layers(graph, layers, state, tokens.ids, tokens.mask, **tokens.options)
    return features


def make_encoder(
    tokenise: Callable[[Any], list[Tokens]],
    apply: Callable[[Any, TokenBatch], EncoderOutput],
    state: Any,
    *,
    max_length: int,
    identity: str,
    **facts: Any,
) -> Encoder:
    """Make an encoder of texts.

    Args:
        tokenise: makes tokens of samples, at most `max_length` of each.
        apply: what there is for tokens with weights.
        state: the weights.
        max_length: how many tokens of a text count.
        identity: everything besides the weights that determines the features, for the fingerprint.
        facts: other fields of the encoder.
    """
    forward = jax.tree_util.Partial(apply, state)
    output = jax.eval_shape(forward, pad([Tokens([0] * max_length)], max_length))
    return Encoder(
        modality="texts",
        feature_width=output.features.shape[1],
        num_logits=None if output.logits is None else output.logits.shape[1],
        fingerprint=fingerprint(identity, state),
        prepare=lambda texts: pad(tokenise(texts), max_length),
        forward=forward,
        lengths=lambda texts: np.array([len(tokens.ids) for tokens in tokenise(texts)]),
        weights_sha256=fingerprint("", state),
        **facts,
    )


def sha256(content: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(content.encode()).hexdigest()
