"""The expression policy on a CUDA device; nothing here runs without one."""

import pytest
import torch

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import dtype_of, load_tokenizer
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import RolloutSampler
from emodistill.policy.token_batches import collate_chats

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]


def chats():
    ids = torch.randint(3, 400, (2, 40), generator=torch.Generator().manual_seed(0)).tolist()
    return collate_chats([(row, [-1] * 30 + [0] * 10) for row in ids], pad_id=0)


def test_log_probabilities_on_the_gpu_are_those_of_the_cpu(make_policy):
    on_cpu = make_policy().eval()
    on_gpu = make_policy().eval()
    on_gpu.load_state_dict(on_cpu.state_dict())
    on_gpu.cuda()
    with torch.no_grad():
        expected = on_cpu(chats()).logprobs
        found = on_gpu(chats().to("cuda")).logprobs.cpu()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)  # two kernels dequantise NF4


def test_training_in_bfloat16_moves_every_adapter_weight(make_policy):
    policy = make_policy(compute_dtype="bfloat16").cuda()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        (-policy(chats().to("cuda")).logprobs.mean()).backward()
    optimizer.step()
    after = policy.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(not torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_sampler_speaks_on_the_gpu_with_a_policy_on_the_cpu(make_policy, tiny_model):
    chat_format = ChatFormat(load_tokenizer(tiny_model), load_vocabulary())
    sampler = RolloutSampler(chat_format, "auto", temperature=1.0, top_k=None, max_new_tokens=8, max_batch=16)
    sampler.refresh(make_policy())
    assert {parameter.device.type for parameter in sampler.generator._decoder.model.parameters()} == {"cuda"}
    assert sampler.dtype == dtype_of("auto", torch.device("cuda"))
    (replies,) = sampler.sample([list(range(3, 40))], 2, seed=0)
    assert len(replies) == 2 and all(replies)
