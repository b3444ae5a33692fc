"""Which token sees which, in the form that a model of any family takes.

Chats that share rows, or a cache with rows of different lengths, need a mask of their own. Models take one for all
layers, or, where some layers see only a window of recent tokens, one for each kind of layer. Layers that keep a state
instead of keys and values (short convolutions, linear attention) cannot be told at all what not to see.

Shapes: R rows, N queries a row, W keys a row.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_FOUND: "weakref.WeakKeyDictionary[Any, list[int | None] | None]" = weakref.WeakKeyDictionary()  # asked every step
FULL, SLIDING = "full_attention", "sliding_attention"


def windows(model: Any) -> list[int | None] | None:
    """How many tokens each layer sees, its own included; None in the list is all of them.

    None instead of a list: some layers keep something else than the keys and values of every token, or share them.
    """
    if model not in _FOUND:
        _FOUND[model] = _windows(model)
    return _FOUND[model]


def _windows(model: Any) -> list[int | None] | None:
    config = model.config.get_text_config()
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return None
    found: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            found.append(layer.sliding_window)
        elif type(layer) is DynamicLayer:
            found.append(None)
        else:
            return None
    return found


def takes_masks(model: Any) -> bool:
    """Whether a model can be told which token sees which, and which place in its chat a token has.

    It can where places are rotations of keys and queries, and at most one width of window is in use.
    """
    seen = windows(model)
    widths = {width for width in seen or () if width is not None}
    return seen is not None and len(widths) < 2 and hasattr(model.base_model, "rotary_emb")


def window_of(model: Any) -> int | None:
    """The width of the windows of a model that `takes_masks`; None where every layer sees all tokens."""
    return next((width for width in windows(model) or () if width is not None), None)


def mask_for(model: Any, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """What to give to a model that `takes_masks` as `attention_mask`.

    Args:
        visible: (R, 1, N, W) bool, true where a query may see a key; a query sees itself.
        queries: (R, N) long, places of the queries in their chats.
        keys: (R, W) or (1, W) long, places of the keys.
    """
    width = window_of(model)
    if width is None:
        return _in_form(model, visible)
    near = visible & (queries[:, None, :, None] - keys[:, None, None, :] < width)
    if None not in (windows(model) or ()):
        return _in_form(model, near)
    return {FULL: _in_form(model, visible), SLIDING: _in_form(model, near)}


def _in_form(model: Any, visible: Tensor) -> Tensor:
    """The library's own loop of attention adds its mask to the scores; the others take one of truth values."""
    if model.config.get_text_config()._attn_implementation != "eager":
        return visible
    added = torch.zeros(visible.shape, dtype=model.dtype, device=visible.device)
    return added.masked_fill_(~visible, torch.finfo(model.dtype).min)
