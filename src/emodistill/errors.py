"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """Something the user can put right.

    Its message is one sentence that names the file, row or key at fault and the way out. The entry points print
    it without a traceback and exit with status 2; everything else is a bug and keeps its traceback.
    """
