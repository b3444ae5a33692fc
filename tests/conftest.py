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
