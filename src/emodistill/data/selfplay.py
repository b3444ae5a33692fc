"""Self-play: a language model on the focal side against whatever sits opposite, usually a language model as well."""

from emodistill.data.played_corpus import PlayedCorpus


class SelfPlayCorpus(PlayedCorpus):
    """Episodes of language models (docs/selfplay.md); see `PlayedCorpus`, and `SpokenSeat` for `focal`.

    A request that fails makes its episode invalid; a server that refuses for good, or is down, stops the build, which
    goes on where it stopped when the same command is run again.
    """

    kind = "selfplay"
