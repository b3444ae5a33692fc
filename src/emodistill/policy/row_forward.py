"""The forward pass of Llama and its like over a `RowCache`, with few operations a token.

The library's own pass serves every model. With a few new tokens it spends most of its time on repeating keys and values
for every query head, on padding and masks, and on many small operations. Here the new tokens of all rows stand one
behind the other without padding, attention reads the keys and values where they lie, and each once for all query heads
that share it.

Shapes: N new tokens of all R rows together, E numbers a token, G key-value heads, H query heads of D numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emodistill.language_models.logits import LogitRule
from emodistill.language_models.packed_linear import PackedLinear
from emodistill.policy.bare_model import BareModel

LLAMA_LIKE = (
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)


class NewTokens(NamedTuple):
    """Where the new tokens of one pass belong, and what they attend to."""

    counts: Sequence[int]  # of each row
    starts: Sequence[int]  # tokens that each row held before
    rows: Tensor  # (N)
    positions: Tensor  # (N)
    cosines: Tensor  # (N, 1, D)
    sines: Tensor  # (N, 1, D), the first half negative
    masks: Sequence[Any]  # tensors added to attention scores: one at one token a row, else one a row or None


class RowForward:
    """Computes the logits after the last new token of each row.

    It differs from the library's pass by rounding alone. It takes a cosine, a norm and an activation from where the
    library does, and leaves out what these architectures never need. Of what some of them do besides, it knows norms of
    queries and keys (Qwen3), layers without rotation (SmolLM3) and factors (Granite).
    """

    def __init__(self, model: Any) -> None:
        self.model, self.layers, config = model, model.model.layers, model.config
        first = self.layers[0].self_attn
        self.width, self.groups = first.head_dim, config.num_key_value_heads
        self.shared = config.num_attention_heads // self.groups  # query heads that share a key-value head
        self.scaling = first.scaling
        self.embedding_factor = getattr(model.model, "embedding_multiplier", 1.0)
        self.residual_factor = getattr(self.layers[0], "residual_multiplier", 1.0)
        self.logit_rule = LogitRule.of(model)
        self.sign = torch.ones(self.width, device=model.device)
        self.sign[: self.width // 2] = -1

    @staticmethod
    def serves(model: Any) -> bool:
        """Whether a model is of such an architecture, its layers plain or packed, and attends to all earlier tokens."""
        if isinstance(model, BareModel):
            return True  # one that was kept because it is
        config = model.config
        if type(model).__name__ not in LLAMA_LIKE or not type(model).__module__.startswith("transformers."):
            return False
        everywhere = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        linears = [m for m in model.model.layers.modules() if isinstance(getattr(m, "weight", None), Tensor)]
        plain = all(type(m) in (nn.Linear, PackedLinear) or type(m).__name__.endswith("RMSNorm") for m in linears)
        return bool(everywhere and not sliding and plain and config.hidden_act == "silu")

    def __call__(self, data: Tensor, starts: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """
        Args:
            data: (layers, 2, rows, G, columns, D) keys and values; those of the new tokens are written into it.
            starts: tokens held by each of the first rows.
            ids: new tokens of each of these rows, at least one in all; a row may have none.

        Returns:
            (R, V) in the model's dtype; of no meaning where a row has no new token.
        """
        counts = [len(new) for new in ids]
        device = data.device
        flat = torch.tensor([token for new in ids for token in new], device=device)
        hidden = self.model.model.embed_tokens(flat)
        hidden = hidden if self.embedding_factor == 1 else hidden * self.embedding_factor
        tokens = self._place(hidden, starts, counts, data.shape[-2])
        for layer, held in zip(self.layers, data, strict=True):
            attended = self._attention(layer.self_attn, _norm(layer.input_layernorm, hidden), held, tokens)
            hidden = self._added(hidden, attended)
            inputs = _norm(layer.post_attention_layernorm, hidden)
            gate = F.silu(layer.mlp.gate_proj(inputs), inplace=True)
            hidden = self._added(hidden, layer.mlp.down_proj(gate.mul_(layer.mlp.up_proj(inputs))))
        last = torch.tensor(counts, device=device).cumsum(0) - 1
        return self.logit_rule(self.model.lm_head(_norm(self.model.model.norm, hidden[last])))

    def _added(self, hidden: Tensor, change: Tensor) -> Tensor:
        return hidden + (change if self.residual_factor == 1 else change * self.residual_factor)

    def _place(self, hidden: Tensor, starts: Sequence[int], counts: Sequence[int], columns: int) -> NewTokens:
        device, dtype = hidden.device, hidden.dtype
        rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], device=device)
        positions = torch.tensor(
            [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)], device=device
        )
        cosines, sines = (part[0].unsqueeze(1) for part in self.model.model.rotary_emb(hidden, positions.unsqueeze(0)))
        masks: list[Any]
        if set(counts) == {1}:
            masks = [_later(positions, columns, dtype)]
        else:
            ends = zip(starts, counts, strict=True)
            masks = [
                _later(torch.arange(start, start + count, device=device), start + count, dtype) if start else None
                for start, count in ends
            ]
        return NewTokens(counts, starts, rows, positions, cosines, (sines * self.sign).to(dtype), masks)

    def _attention(self, layer: Any, inputs: Tensor, held: Tensor, tokens: NewTokens) -> Tensor:
        """(N, E) -> (N, E); `held` is (2, rows, G, columns, D)."""
        states = torch.cat((layer.q_proj(inputs), layer.k_proj(inputs), layer.v_proj(inputs)), -1)
        states = states.view(len(inputs), -1, self.width)
        turned, half = states[:, : -self.groups], self.width // 2
        if hasattr(layer, "q_norm"):
            turned[:, : -self.groups] = _norm(layer.q_norm, turned[:, : -self.groups])
            turned[:, -self.groups :] = _norm(layer.k_norm, turned[:, -self.groups :])
        if getattr(layer, "use_rope", True):
            swapped = torch.cat((turned[..., half:], turned[..., :half]), -1)
            turned.mul_(tokens.cosines).addcmul_(swapped, tokens.sines)
        queries = states[:, : -2 * self.groups].view(len(inputs), self.groups, self.shared, self.width)
        new = states[:, -2 * self.groups :].view(len(inputs), 2, self.groups, self.width)
        held[:, tokens.rows, :, tokens.positions] = new
        one_each = set(tokens.counts) == {1}
        attended = self._one_each(queries, held, tokens) if one_each else self._many(queries, held, tokens)
        projected: Tensor = layer.o_proj(attended)
        return projected

    def _one_each(self, queries: Tensor, held: Tensor, tokens: NewTokens) -> Tensor:
        """One query a row: the query heads of a group stand where several queries of one head would."""
        rows = len(queries)
        keys, values = held[:, :rows].flatten(1, 2)  # (rows x G, columns, D); a slice of the columns would be copied
        # keys on the left, and a copy of the small scores: the other way round, oneDNN rearranges all keys
        scores = keys @ (queries * self.scaling).flatten(0, 1).transpose(1, 2)
        scores = scores.transpose(1, 2).contiguous().view(rows, self.groups, self.shared, -1)
        scores += tokens.masks[0][:, None, None]
        attended: Tensor = scores.softmax(-1).flatten(0, 1) @ values
        return attended.view(rows, -1)

    def _many(self, queries: Tensor, held: Tensor, tokens: NewTokens) -> Tensor:
        """Row by row, so that no row waits for a longer one."""
        attended, first = torch.empty_like(queries), 0
        for row, (start, count, mask) in enumerate(zip(tokens.starts, tokens.counts, tokens.masks, strict=True)):
            if not count:
                continue
            keys, values = held[:, row, :, None, : start + count].expand(-1, -1, self.shared, -1, -1)
            asked = queries[first : first + count].permute(1, 2, 0, 3)  # (G, H / G, count, D)
            answer = F.scaled_dot_product_attention(
                asked, keys, values, mask, is_causal=mask is None, scale=self.scaling
            )
            attended[first : first + count] = answer.permute(2, 0, 1, 3)
            first += count
        return attended.view(len(queries), -1)


def _norm(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _later(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Minus infinity where a column is later than a token's own, else 0: (n, width)."""
    later = torch.arange(width, device=positions.device) > positions.unsqueeze(1)
    return torch.zeros(later.shape, dtype=dtype, device=positions.device).masked_fill_(later, -torch.inf)
