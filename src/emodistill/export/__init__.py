"""Takes what was trained elsewhere: an agent for PEFT, transformers, Ollama or the hub, or a corpus.

    from emodistill.export import TrainedAgent, Wanted, write_export

A name is imported from its module when it is first asked for.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.export.agent import TrainedAgent
    from emodistill.export.corpus import write_corpus
    from emodistill.export.forms import Wanted, listing, verify, write_export
    from emodistill.export.hub import check_repo, publish

_MODULES = {
    "agent": ("TrainedAgent",),
    "corpus": ("write_corpus",),
    "forms": ("Wanted", "listing", "verify", "write_export"),
    "hub": ("check_repo", "publish"),
}

__all__ = [
    "TrainedAgent",
    "Wanted",
    "check_repo",
    "listing",
    "publish",
    "verify",
    "write_corpus",
    "write_export",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
