from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads cost more than they save, and sums stay in one order
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data for tests that the product does not ship; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared test data ({SHARED.parent.name}/{SHARED.name} beside the checkout) is not here")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, which are those that train and the slow ones: no process is left working on one at the end.

    pytest-xdist keeps this order with --no-loadscope-reorder alone; else it puts files with many tests first.
    """
    long = {
        item.path for item in items if item.get_closest_marker("slow") or "place" in getattr(item, "fixturenames", ())
    }
    items.sort(key=lambda item: item.path not in long)
