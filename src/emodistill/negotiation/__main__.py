"""Print how a published scenario file is read: `python -m emodistill.negotiation FILE DOMAIN [SEPARATOR]`."""

import sys

from emodistill.errors import UserError
from emodistill.negotiation.scenarios import read_csv


def main(arguments: list[str]) -> int:
    """Print the audit of one file; 2 and one sentence on a user's mistake."""
    try:
        if len(arguments) not in (2, 3):
            raise UserError("usage: python -m emodistill.negotiation FILE DOMAIN [comma|semicolon|tab]")
        print(read_csv(*arguments)[1])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
