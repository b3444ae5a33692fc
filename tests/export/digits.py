from tiny_model import build_tokenizer, random_llama
from tokenizers import pre_tokenizers


def digits_tokenizer():
    """The tiny tokenizer, but numbers are cut digit by digit, and all special tokens are named."""
    tokenizer = build_tokenizer()
    parts = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.bos_token, tokenizer.unk_token = "<|im_start|>", "<|pad|>"
    return tokenizer


def build_model(folder, seed=0):
    """A tiny model with that tokenizer whose replies differ from prompt to prompt."""
    model = random_llama(
        seed,
        initializer_range=0.2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model.save_pretrained(folder)
    digits_tokenizer().save_pretrained(folder)
    return str(folder)
