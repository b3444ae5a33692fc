"""`python -m emodistill.judges LEDGER`: see `judges.ledger_report`."""

import sys

from emodistill.judges.ledger_report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
