"""The one exception for mistakes a user can mend."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Something the user can put right.

    Its message is one sentence that names the file, row or key at fault and the way out. The entry points print
    it without a traceback and exit with status 2; everything else is a bug and keeps its traceback.
    """

    @classmethod
    def from_validation(cls, where: str, error: "ValidationError") -> "UserError":
        """One sentence for the first value that pydantic refused; `where` is a file, or a section of the settings."""
        fault = error.errors(include_url=False)[0]
        key, message = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "missing":
            return cls(f"{where}: {key} is missing")
        if fault["type"] == "extra_forbidden":
            return cls(f"{where}: there is no key {key}")
        if fault["type"] == "value_error":
            return cls(f"{where}: {key}: {message}" if key else f"{where}: {message}")
        return cls(f"{where}: {key}={fault['input']} {message.removeprefix('Input ')}")
