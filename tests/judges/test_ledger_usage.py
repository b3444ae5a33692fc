"""What judgements took, over all tries and all payers, and that any text can be stored."""

from judge_cases import CountingJudge

from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import Judgement
from emodistill.language_models.completion import Usage


def test_the_bills_of_all_tries_add_up_and_the_first_score_stays(ask, path):
    judge, replies = CountingJudge(), []
    judge._one = lambda text: replies.pop(0)
    with Ledger(path) as ledger:
        keeper = LedgerJudge(judge, ledger)
        replies.append(Judgement(None, "an outage", "<html>", Usage(10, 1, None, 2.0, 4)))
        assert keeper.scores(ask("word")) == [None]
        replies.append(Judgement(7.0, None, '{"score": 7}', Usage(100, 5, 0.5, 1.0, 1)))
        assert keeper.scores(ask("word")) == [7.0]
        assert keeper.judgements(ask("word")) == [Judgement(7.0, None, '{"score": 7}', Usage(110, 6, 0.5, 3.0, 5))]


def test_a_second_payer_changes_the_bill_and_not_the_score(ask, path):
    """One whose claim was taken over while it was held up, say, and which stores its answer all the same."""
    (request,) = ask("word")
    with Ledger(path) as mine, Ledger(path) as theirs:
        judge = CountingJudge()
        quick = judgement_key(judge, request), request, Judgement(4.0, usage=Usage(10, 1, 0.25, 1.0, 1))
        judge._one = lambda text: theirs.put(judge, [quick]) or Judgement(9.5, usage=Usage(20, 2, 0.5, 1.0, 1))
        assert LedgerJudge(judge, mine).judgements([request]) == [Judgement(4.0, usage=Usage(30, 3, 0.75, 2.0, 2))]


def test_raw_replies_and_reasons_may_be_any_text(ask, path):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(None, "bad \ud800", "raw \ud800 \x00")
    with Ledger(path) as ledger:
        (found,) = LedgerJudge(judge, ledger).judgements(ask("word"))
    assert (found.reason, found.raw) == ("bad ?", "raw ? \x00")
