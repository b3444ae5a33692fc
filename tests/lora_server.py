"""A server of completions on loopback with a real model and real adapters, by vLLM's runtime LoRA protocol.

    with LoraServer(folder) as server:
        ...  # server.base_url, server.model, server.log, server.loaded

It serves `/v1/completions` with prompts of token ids, seeds, `echo`, log-probabilities and token ids, and
`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`. One request is answered at a time and alone, so a reply is a
function of weights, prompt and seed. What a bad server does can be switched on, see `LoraServer`.

Protocol: vLLM's documentation (features/lora, serving/openai_compatible_server), read on 2026-11-29.
"""

import json
import socket
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import uvicorn
from faulty_replies import respond
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class LoraServer:
    """A context manager; the server runs in a thread of its own. `stop` and `start` are its death and return.

    Attributes:
        adapters: whether it has the two routes of adapters.
        ignores_adapters: it loads them and speaks as the base model.
        forgiving: it answers for names that it does not know, as the base model.
        lags: it answers for each name with the adapter that was loaded before it.
        mount: what it sees of the machine: its path of a folder, and the folder; None is everything.
        tells: `ids` of tokens, their `words`, or `nothing` but the text.
        echoes, seeded: whether it knows `echo`, and `seed`.
        dies_after: completions that it still answers before it stops.
        log: what it was asked: route and body.
        tokens: of all answers, read and written.
    """

    def __init__(self, folder: str, dtype: torch.dtype = torch.float32, port: int = 0) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.peft: PeftModel | None = None
        self.model, self.port = "base", port
        self.adapters, self.ignores_adapters, self.forgiving, self.lags = True, False, False, False
        self.echoes, self.seeded, self.tells = True, True, "ids"
        self.mount: tuple[str, Path] | None = None
        self.dies_after: int | None = None
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.tokens = self.count = 0
        self.loaded: dict[str, str] = {}  # name -> adapter of the model
        self.latest: str | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def asked(self, route: str) -> list[dict[str, Any]]:
        return [body for own, body in self.log if own == route]

    def __enter__(self) -> "LoraServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, without any adapter; on the port of before, if there was one."""
        self.loaded, self.latest, self.died = {}, None, threading.Event()
        listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listening.getsockname()[1]
        settings = {"log_level": "critical", "lifespan": "off", "timeout_graceful_shutdown": 0, "access_log": False}
        self._server = uvicorn.Server(uvicorn.Config(self, **settings))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application."""
        content, more = b"", True
        while more:
            event = await receive()
            content, more = content + event.get("body", b""), event.get("more_body", False)
        route, body = scope["path"].removeprefix("/v1/"), json.loads(content)
        if self.died.is_set():
            raise ConnectionAbortedError
        self.log.append((route, body))
        if route == "completions":
            if self.dies_after is not None:
                self.dies_after -= 1
                if self.dies_after < 0:
                    self.dies_after = None
                    self.died.set()
                    raise ConnectionAbortedError
            status, answer = self.complete(body)
        elif route in ("load_lora_adapter", "unload_lora_adapter") and self.adapters:
            status, answer = self.load(body) if route.startswith("load") else self.unload(body)
        else:
            status, answer = 404, {"detail": "Not Found"}
        await respond(send, status, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.loaded:
            return refusal(400, f"The lora adapter '{name}' has already been loaded.")
        if self.mount is not None:
            seen, real = self.mount
            path = str(real / Path(path).relative_to(seen)) if path.startswith(seen) else "/nowhere"
        if not (Path(path) / "adapter_config.json").is_file():
            return refusal(404, f"Loading lora {name} failed: No adapter found for {body['lora_path']}")
        self.count += 1
        inner = f"adapter{self.count}"
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.base, path, adapter_name=inner).eval()
        else:
            self.peft.load_adapter(path, adapter_name=inner)
        self.loaded[name] = self.latest if self.lags and self.latest else inner
        self.latest = inner
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        if name not in self.loaded:
            return refusal(404, f"The lora adapter '{name}' cannot be found.")
        del self.loaded[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["model"]
        if name != self.model and name not in self.loaded and not self.forgiving:
            return refusal(404, f"The model `{name}` does not exist.")
        inner = None if self.ignores_adapters else self.loaded.get(name)
        model: Any = self.peft or self.base
        if self.peft is not None and inner is not None:
            self.peft.set_adapter(inner)
        plain = self.peft is not None and inner is None
        with self.peft.disable_adapter() if plain else nullcontext():  # type: ignore[union-attr]  # not None if plain
            ids, logprobs, ended = self.draw(model, body)
        read = len(body["prompt"])
        self.tokens += len(ids)
        first = 0 if body.get("echo") and self.echoes else read
        text = self.tokenizer.decode(ids[first : len(ids) - ended])
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop" if ended else "length"}
        if body.get("logprobs") is not None and self.tells != "nothing":
            words = [
                self.tokenizer.decode([one]) if self.tells == "words" else f"token_id:{one}" for one in ids[first:]
            ]
            choice["logprobs"] = {"tokens": words, "token_logprobs": logprobs[first:]}
        usage = {"prompt_tokens": read, "completion_tokens": len(ids) - read, "total_tokens": len(ids)}
        return 200, {"object": "text_completion", "model": name, "choices": [choice], "usage": usage}

    def draw(self, model: Any, body: dict[str, Any]) -> tuple[list[int], list[float | None], bool]:
        """Prompt and reply, the log-probability of each token at temperature 1, and whether a stop token ended it."""
        ids, random = list(body["prompt"]), torch.Generator()
        random.manual_seed(body["seed"] if self.seeded and "seed" in body else time.perf_counter_ns())
        output = model(input_ids=torch.tensor([ids]), use_cache=True)
        table = output.logits[0].float().log_softmax(-1)
        logprobs: list[float | None] = [None, *table[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]
        for _ in range(body["max_tokens"]):
            own = table[-1]
            ids.append(pick(own, body, random))
            logprobs.append(float(own[ids[-1]]))
            if ids[-1] in body["stop_token_ids"]:
                return ids, logprobs, True
            output = model(input_ids=torch.tensor([ids[-1:]]), past_key_values=output.past_key_values, use_cache=True)
            table = output.logits[0].float().log_softmax(-1)
        return ids, logprobs, False


def pick(logprobs: torch.Tensor, body: dict[str, Any], random: torch.Generator) -> int:
    if body["temperature"] == 0:
        return int(logprobs.argmax())
    count = body["top_k"] if body["top_k"] > 0 else len(logprobs)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return int(ids[(values / body["temperature"]).softmax(-1).multinomial(1, generator=random)])


def refusal(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}
