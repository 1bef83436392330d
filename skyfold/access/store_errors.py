"""What file systems raise, as `skyfold.errors`: with the object's name, never with credentials."""

from __future__ import annotations

from typing import Any

from skyfold.errors import SkyfoldError, StoreUnavailableError


class named_store_errors:
    """Turns what a file system raises into `StoreUnavailableError` with the object's name."""

    def __init__(self, name: str, action: str) -> None:
        self.name = name
        self.action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        told = FileExistsError if self.action in ("write", "create") else FileNotFoundError
        if error is None or isinstance(error, (told, SkyfoldError)):
            return
        if isinstance(error, (OSError, TimeoutError)) or _is_remote(error):
            raise StoreUnavailableError(
                f"cannot {self.action} {self.name}: {_first_line(error)}; check that the store is "
                "reachable and that your credentials allow this"
            ) from error


def is_precondition_failed(error: BaseException) -> bool:
    """HTTP status 412 in the answer; a server's words differ, and some say nothing."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412


def _is_remote(error: BaseException) -> bool:
    """Errors of the libraries beneath fsspec, known by where their class was defined."""
    return type(error).__module__.partition(".")[0] in {"botocore", "aiohttp", "aiobotocore"}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
