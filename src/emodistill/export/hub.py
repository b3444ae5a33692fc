"""Publishes a folder on the Hugging Face Hub, or on any server that speaks its protocol (`HF_ENDPOINT`).

The token is the one of `hf auth login`, or of the environment variable HF_TOKEN; it is never written anywhere.
"""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from emodistill.errors import UserError
from emodistill.language_models.local import HUB_ID

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]  # of the HTTP library, raised itself where no server answers


def check_repo(repo: str | None) -> str:
    """The id itself.

    Raises:
        UserError: if it is none.
    """
    try:
        validate_repo_id(repo or "")
    except HFValidationError as error:
        raise UserError(f"repo={repo}: {error}; give owner/name") from error
    if not HUB_ID.fullmatch(repo or ""):
        raise UserError(f"repo={repo}: give where it is published, owner/name")
    return str(repo)


def publish(folder: Path, repo: str, private: bool, dataset: bool = False) -> str:
    """Upload a folder as one commit; returns its address.

    Args:
        private: of a repository that does not exist yet.

    Raises:
        UserError: if the hub refuses or cannot be reached.
    """
    api, kind = HfApi(), "dataset" if dataset else "model"
    try:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder, repo_id=repo, repo_type=kind, commit_message="Upload with emodistill's export"
        )
    except LocalTokenNotFoundError as error:
        raise UserError(f"repo={repo}: nobody is logged in; run `hf auth login`, or set HF_TOKEN") from error
    except (_HTTP_ERROR, OSError, ValueError) as error:  # ValueError: a card whose front matter it rejects
        reason = " ".join(str(error).split())
        raise UserError(f"repo={repo}: the hub did not take it ({reason[:200]}); mend that and export again") from error
    return f"{api.endpoint}/{'datasets/' if dataset else ''}{repo}"
