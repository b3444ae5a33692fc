"""An endpoint that is closed, opened again, or taken into another process."""

import multiprocessing
import threading

from endpoints import ask, endpoint
from faulty_server import FaultyServer

from emodistill.language_models.completion import Reply


def test_closing_twice_and_asking_again_is_fine():
    with FaultyServer() as server:
        client, before = endpoint(server), threading.active_count()
        client.close()
        for _ in range(2):
            assert isinstance(client.complete([ask()])[0], Reply)
            client.close()
            client.close()
            assert threading.active_count() == before


def _in_a_fork(client, results):
    results.put([getattr(answer, "text", answer) for answer in client.complete([ask("from a fork")])])


def test_a_forked_process_has_its_own_connections():
    with FaultyServer() as server, endpoint(server) as client:
        client.complete([ask()])
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=_in_a_fork, args=(client, results))
        child.start()
        assert results.get() == ["You said: from a fork"]
        child.join()
        assert isinstance(client.complete([ask("in the parent")])[0], Reply)
