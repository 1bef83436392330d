"""Products of one kind in a release, by name: opened when they are first asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from skyfold.errors import UnknownNameError

if TYPE_CHECKING:
    from skyfold.release import DataRelease

T = TypeVar("T")


class Products(Mapping[str, T]):
    """Products of a release by name; UnknownNameError for any other.

    A subclass gives `noun`, for messages, and `_open`, which makes the product of a name.
    """

    noun: ClassVar[str]

    def __init__(self, release: DataRelease, names: Sequence[str]) -> None:
        self._release = release
        self._names = list(names)
        self._opened: dict[str, T] = {}

    @abstractmethod
    def _open(self, name: str) -> T:
        """The product of a name that there is."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise UnknownNameError(
                f"no {self.noun} {name!r} in {self._release.url}; there are "
                f"{', '.join(self._names) or 'none'}; choose one of them"
            )
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self._names) or 'none'}>"
