"""From logits to tokens: what the noise decides, and what a rounding error must not."""

import torch

from emodistill.policy.generation import pick


def test_a_rounding_error_that_swaps_two_likely_tokens_changes_hardly_any_draw():
    """Batches of other sizes round differently; drawn in the order of likelihood, half of these would change."""
    logits = torch.zeros(1, 50)
    logits[0, 3], logits[0, 7] = 4.0, 4.0 + 1e-6
    swapped = logits.clone()
    swapped[0, 3], swapped[0, 7] = logits[0, 7], logits[0, 3]
    uniforms = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    draws = [pick(each.expand(1000, -1), uniforms, temperature=1.0, top_k=10) for each in (logits, swapped)]
    assert (draws[0] != draws[1]).sum() <= 2
    assert {3, 7} <= set(draws[0].tolist())
