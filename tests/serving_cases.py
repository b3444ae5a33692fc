"""A server of a run in this process, and how it is asked."""

import asyncio
import threading
import time
from contextlib import contextmanager

import httpx2
from tiny_runs import composed

from emodistill.serving.server import Server, listening
from serve import service_of


class Served:
    """A server of a run, and how it is asked."""

    def __init__(self, service, server, port):
        self.service, self.server, self.base_url = service, server, f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.base_url, trust_env=False, timeout=60)

    def chat(self, messages=(), model="phrasebook_iql", status=200, **more):
        if "metadata" not in more:
            more["metadata"] = {"scenario": self.scenario}
        body = {"model": model, "messages": [*messages], **more}
        answer = self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, status, code, **request):
        """The message of an error in OpenAI's form."""
        answer = self.client.request(**{"method": "POST", "url": "/v1/chat/completions", **request})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), answer.text
        assert set(error) == {"message", "type", "param", "code"}
        return error["message"]

    def metrics(self):
        """Values by name and labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    @contextmanager
    def busy(self):
        """The thread of the models is held, so that requests wait."""
        let_go = threading.Event()
        held = self.on_loop(self.service.lockstep.call(let_go.wait, 60))
        try:
            yield
        finally:
            let_go.set()
            assert held.result(10)

    def on_loop(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.server.loop)

    def wait_until(self, waiting):
        """Wait until so many requests are in the queue."""
        wait_for(lambda: len(self.service.lockstep.waiting) == waiting)

    @property
    def scenario(self):
        return next(iter(self.service.run.scenarios))


@contextmanager
def serving(run, *overrides, token=None, port=0):
    """A server in a thread, for as long as the context lasts."""
    service = service_of(composed("serve", f"run_dir={run}", *overrides), token)
    server = Server(service.app(), service.lockstep.stop)
    with listening("127.0.0.1", port) as opened:
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        served = Served(service, server, opened.getsockname()[1])
        try:
            with served.client:
                yield served
        finally:
            server.should_exit = True
            thread.join()


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
