"""The merged weights of an adapter, kept in the cache so that a conversation begins at once.

    <cache>/speaking/<key>/     model.safetensors, tokenizer.json, speaker.json, checksums.json

To merge an adapter needs the base in 4 bits, PEFT and bitsandbytes; to speak needs the merged weights alone. They are
kept with the tokenizer and the form of the model's chats, so that neither those libraries nor transformers is imported
to speak with them. What is kept gives the same logits as the merged model, bit for bit: that is tried before it counts.

The key is a hash of every file of base and adapter, of the settings, of the code that merges weights and takes chats
apart, and of the versions of the libraries: whatever could give other bytes is another folder. Where the processor is
another one, they are made again. The latest `MOST` folders stay. Models that `RowForward` does not serve, those above
`LARGEST` and those on a GPU are not kept.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.files import CHECKSUMS, cache_dir, exclusive, file_hash, is_whole, replacing, seal
from emodistill.language_models.embedded import embedded_model
from emodistill.language_models.model_files import EMBEDDED, named_folder, read_config
from emodistill.runs import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from emodistill.emotions.vocabulary import Vocabulary
    from emodistill.policy.bare_model import BareModel
    from emodistill.policy.chat_format import ChatFormat
    from emodistill.policy.chat_template import ChatForm
    from emodistill.policy.expression_policy import ExpressionPolicy

MODEL, TOKENIZER, ABOUT = "model.safetensors", "tokenizer.json", "speaker.json"
LIBRARIES = ("bitsandbytes", "peft", "tokenizers", "torch", "transformers")
CODE = Path(__file__).parent
LARGEST = 2**31  # bytes of a model's files
MOST = 4
CHANGING = ("dynamic", "longrope")  # rotations that depend on how long a text is
TRIED = [[1, 2, 3, 4, 5, 6, 7], [8]]  # tokens: several in a row, and one behind them

logger = logging.getLogger(__name__)


class KeptTokenizer:
    """What a chat needs of a tokenizer of transformers: its own backend, and the names of its special tokens."""

    def __init__(self, backend: "Tokenizer", about: Mapping[str, Any]) -> None:
        """
        Args:
            about: see `about_tokenizer`; and `name_or_path`.
        """
        self.backend_tokenizer = backend
        self.name_or_path: str = about["name_or_path"]
        self.all_special_tokens: list[str] = about["all_special_tokens"]
        self.eos_token_id, self.unk_token_id = about["eos_token_id"], about["unk_token_id"]
        self.unk_token: str | None = about["unk_token"]
        self.form = _form(about["form"])

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found


class KeptPolicy:
    """A place in the cache for the merged weights of one policy, and what is there.

    Attributes:
        name: of the folder of the base model.
        here: what of this machine decides the weights; a policy that was kept elsewhere is made again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.here: dict[str, Any] = {}

    @cached_property
    def about(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / ABOUT).read_text(encoding="utf-8")))

    @cached_property
    def tokenizer(self) -> KeptTokenizer:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(self.folder / TOKENIZER))
        return KeptTokenizer(backend, self.about["tokenizer"] | {"name_or_path": self.name})

    @cached_property
    def model(self) -> "BareModel":
        """The merged weights, mapped from the file and packed."""
        from safetensors.torch import load_file

        from emodistill.language_models.packed_linear import pack_linears
        from emodistill.policy.bare_model import BareModel

        model = BareModel(load_file(self.folder / MODEL), self.about["model"], self.name).eval()
        pack_linears(model)
        return model

    def keep(self, policy: "ExpressionPolicy", dtype: "torch.dtype", chat: "ChatFormat") -> bool:
        """Keep a policy here; False, and nothing is kept, where it would not speak the same or cannot be stored."""
        import torch
        from safetensors import SafetensorError

        from emodistill.policy.bare_model import BareModel, taken_apart

        model, backend = policy.merged(dtype, torch.device("cpu")), getattr(chat.tokenizer, "backend_tokenizer", None)
        if backend is None or not is_served(model):
            return False
        (tensors, parts), names = taken_apart(model), about_tokenizer(chat)
        if not speaks_alike(model, BareModel(tensors, parts, self.name)):
            return False
        if not encodes_alike(chat.tokenizer, KeptTokenizer(backend, names | {"name_or_path": self.name})):
            return False
        self.about = {"here": self.here, "model": parts, "tokenizer": names}
        try:
            with exclusive(self.folder.parent, wait=True):
                self._write(tensors, backend)
                _forget(self.folder.parent)
        except (OSError, SafetensorError) as error:  # a full disk, or a cache that nobody may write to
            logger.warning("merged weights cannot be kept in %s (%s); they are made again", self.folder.parent, error)
            return False
        return True

    def _write(self, tensors: "Mapping[str, torch.Tensor]", backend: "Tokenizer") -> None:
        from safetensors.torch import save_file

        with replacing(self.folder) as partial:
            partial.mkdir(parents=True)
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial / MODEL)
            backend.save(str(partial / TOKENIZER))
            (partial / ABOUT).write_text(json.dumps(self.about), encoding="utf-8")
            (partial / MODEL).chmod((partial / ABOUT).stat().st_mode)  # safetensors makes its files private
            seal(partial)


def about_tokenizer(chat: "ChatFormat") -> dict[str, Any]:
    """What JSON can hold of a chat's tokenizer and of its form."""
    names = ("all_special_tokens", "eos_token_id", "unk_token", "unk_token_id")
    form = asdict(chat.form) | {"control": chat.form.control.pattern}
    return {key: getattr(chat.tokenizer, key) for key in names} | {"form": form}


def find(
    policy: Mapping[str, Any], adapter: Path | None, sampler: Mapping[str, Any], vocabulary: "Vocabulary"
) -> tuple[KeptPolicy, bool] | None:
    """Where a policy is kept, and whether it is there, loaded already; None where it cannot be.

    It reads, hashes and packs, and Python can go on meanwhile: call it in a thread, beside other work.

    Args:
        policy: arguments of `ExpressionPolicy`.
        adapter: its folder; None is the base alone.
        sampler: arguments of `RolloutSampler`.
    """
    model = str(policy["base_model"])
    base = embedded_model() if model == EMBEDDED else named_folder(model)
    if base is None:
        from emodistill.language_models.local import model_folder

        base = model_folder(model)
    weights = sorted(base.glob("*.safetensors"))
    architectures = read_config(model, base).get("architectures") or []
    if not weights or sum(file.stat().st_size for file in weights) > LARGEST:
        return None
    small = sorted(file for pattern in ("*.json", "*.jinja", "*.txt", "*.model") for file in base.glob(pattern))
    own = [] if adapter is None else [adapter / name for name in (ADAPTER_NOTE, ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    if not all(file.is_file() for file in own):
        return None  # who loads it says what is wrong
    about = {
        "files": [(file.name, file_hash(file)) for file in [*weights, *small, *own]],
        "policy": {key: value for key, value in policy.items() if key not in ("base_model", "vocabulary", "device")},
        "adapter": adapter is not None,
        "vocabulary": vocabulary.fingerprint,
        "dtype": sampler["dtype"],
        "code": [file_hash(file) for file in sorted(CODE.glob("*.py"))],
        "versions": {name: version(name) for name in LIBRARIES},
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    found = KeptPolicy(cache_dir() / "speaking" / key, str(base))
    whole = is_whole(found.folder)
    if whole:
        _ = found.tokenizer

    import torch  # after the files: others import it meanwhile

    from emodistill.language_models.local import device_of, dtype_of
    from emodistill.policy.row_forward import LLAMA_LIKE

    place = device_of(sampler.get("device", "auto"))
    if place.type != "cpu" or not {*architectures} <= {*LLAMA_LIKE}:
        return None
    found.here = {
        "dtypes": [
            str(dtype_of(policy["compute_dtype"], device_of(policy["device"]))),
            str(dtype_of(sampler["dtype"], place)),
        ],
        "processor": [torch.cuda.is_available(), torch.backends.cpu.get_cpu_capability()],
    }
    there = whole and found.about.get("here") == found.here
    if there:
        with suppress(OSError):  # a cache that one may only read
            os.utime(found.folder / CHECKSUMS)
        _ = found.model
    return found, there


def is_served(model: Any) -> bool:
    """Whether `RowForward` serves a model, and its rotations do not depend on how long a text is."""
    from emodistill.policy.row_forward import RowForward

    rotation = getattr(model.config, "rope_parameters", None) or {}
    return bool(RowForward.serves(model)) and rotation.get("rope_type") not in CHANGING


def speaks_alike(model: Any, other: Any) -> bool:
    """Whether `RowForward` gives the same logits with two models, bit for bit."""
    import torch

    from emodistill.policy.generation import Layout
    from emodistill.policy.row_forward import RowForward

    found = []
    with torch.inference_mode():
        for one in (model, other):
            layout = Layout.of(one)
            assert layout is not None
            data = layout.like.new_zeros(layout.layers, 2, 1, layout.heads, 64, layout.width)
            run, held = RowForward(one), 0
            for ids in TRIED:
                found.append(run(data, [held], [ids]))
                held += len(ids)
    return all(torch.equal(one, two) for one, two in zip(found[: len(TRIED)], found[len(TRIED) :], strict=True))


def encodes_alike(tokenizer: Any, other: KeptTokenizer) -> bool:
    """Whether two tokenizers cut and join a text alike that has words, numbers, spaces and special tokens."""
    text = (
        f"I can't do 1,250 days -  or , say, 30.5 ?\n\u00fc\u4e16\U0001f600 don 't{''.join(other.all_special_tokens)} x"
    )
    ids = tokenizer.encode(text, add_special_tokens=False)
    alike = ids == other.encode(text)
    return alike and bool(tokenizer.decode(ids, skip_special_tokens=False) == other.decode(ids))


def _form(saved: Mapping[str, Any]) -> "ChatForm":
    from emodistill.policy.chat_template import ChatForm

    return ChatForm(**{**saved, "opening": tuple(saved["opening"]), "control": re.compile(saved["control"])})


def _forget(parent: Path) -> None:
    """Remove the folders that were not used for longest."""
    kept = sorted(parent.glob(f"*/{CHECKSUMS}"), key=lambda file: file.stat().st_mtime)
    for file in kept[:-MOST]:
        shutil.rmtree(file.parent)
