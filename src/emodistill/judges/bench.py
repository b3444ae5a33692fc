"""Judges by name for the commands that measure them, without a configuration file.

    --judge rubric local ensemble lm

`ensemble` is the mean of rubric and local; `lm` is a model behind an endpoint (--base-url, --lm-model, --api-key-env).
"""

import argparse
from collections.abc import Sequence

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.language_model import LanguageModelJudge
from emodistill.judges.ledger_rows import judgement_key
from emodistill.judges.local import LocalModelJudge
from emodistill.judges.probed import ProbedJudge
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, announced
from emodistill.judges.rubric import RubricJudge
from emodistill.language_models.endpoint import Endpoint

NAMES = ("rubric", "local", "ensemble", "lm")


class Remembering:
    """A judge that is asked the same thing once in this process, so that an ensemble need not ask its members again."""

    def __init__(self, judge: Judge) -> None:
        self.judge_behind, self.name, self.version = judge, judge.name, judge.version
        self._known: dict[str, Judgement] = {}

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        keys = [judgement_key(self.judge_behind, request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self.judge_behind.judge(list(new.values())), strict=True))
        return announced([self._known[key] for key in keys], on_judgement)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which judges, and how they are made."""
    parser.add_argument("--judge", nargs="+", choices=NAMES, default=["rubric"], help="which judges to measure")
    parser.add_argument("--model", default="embedded", help="of local: embedded, a folder or a hub id")
    parser.add_argument("--dtype", default="float32", help="of local")
    parser.add_argument("--base-url", help="of lm: address of the endpoint, up to /v1")
    parser.add_argument("--lm-model", help="of lm: the model's name there")
    parser.add_argument("--api-key-env", help="of lm: name of the environment variable with the key")
    parser.add_argument("--max-tokens", type=int, default=32, help="of lm: most tokens of a reply")
    parser.add_argument("--seed", type=int, default=0)


def judges(options: argparse.Namespace, defended: bool = True, probed: bool = False) -> dict[str, Judge]:
    """The judges that were asked for, by name.

    Args:
        defended: with what keeps a judged text from talking a model into a score.
        probed: with probes where the configuration has them too, which is for `lm`.
    """
    made: dict[str, Judge] = {}
    wanted = options.judge
    if {"rubric", "ensemble"} & set(wanted):
        made["rubric"] = Remembering(RubricJudge(load_vocabulary(), load_perceiver("judge")))
    if {"local", "ensemble"} & set(wanted):
        made["local"] = Remembering(LocalModelJudge(options.model, options.dtype, defended=defended))
    if "ensemble" in wanted:
        made["ensemble"] = EnsembleJudge({"rubric": made["rubric"], "local": made["local"]})
    if "lm" in wanted:
        judge = LanguageModelJudge(_endpoint(options), max_tokens=options.max_tokens, defended=defended)
        made["lm"] = ProbedJudge(judge) if probed and defended else judge
    return {name: made[name] for name in wanted}


def _endpoint(options: argparse.Namespace) -> Endpoint:
    if not options.base_url or not options.lm_model:
        raise UserError("--judge lm needs --base-url and --lm-model")
    return Endpoint(options.base_url, options.lm_model, options.api_key_env)
