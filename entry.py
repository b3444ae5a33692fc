"""What `train.py` and `evaluate.py` share: mistakes of the user end in one sentence, everything else in a traceback."""

import errno
import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from emodistill.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a Hydra main function; exits with 2 and one sentence on standard error for a mistake of the user.

    HYDRA_FULL_ERROR=1 in the environment shows the traceback all the same.
    """
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions through to here, or else Hydra prints its own trace
    try:
        main()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        sentence = explain(error)
        if wants_traceback or sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None


def explain(error: BaseException) -> str | None:
    """One sentence for a mistake that a user can mend; None for a bug, which deserves its traceback."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"the disk is full ({link.filename or link.strerror}); make room and run the same command again"
    if isinstance(error, OSError):
        return None
    configuration = [link for link in chain if isinstance(link, HydraException | OmegaConfBaseException)]
    if len(configuration) < len(chain) and not isinstance(chain[-1], OmegaConfBaseException):
        return None  # the constructor itself failed: a bug, or a message that needs its place
    return " ".join(str(chain[0]).split())
