"""Every exception of the project, and when each is raised.

Each error also derives from the built-in that a caller would guess::

    SkyfoldError
    ├── ReleaseError
    │   ├── ReleaseNotFoundError (FileNotFoundError)   nothing that is a release at this URL
    │   ├── UnsealedReleaseError (RuntimeError)        no manifest yet: still being written
    │   ├── SealedReleaseError (RuntimeError)          a sealed release cannot be changed
    │   ├── QuarantineError (RuntimeError)             losses exceed those of the base release
    │   ├── FormatVersionError (ValueError)            written in a newer format
    │   └── StoreUnavailableError (OSError)            the store refused, timed out or broke off
    ├── CorruptDataError (ValueError)                  stored bytes are not what was written
    │   └── UntrustedModelError                        a stored network may not be run
    ├── UnknownCodecError (LookupError)                bytes of a codec that this reader lacks
    ├── LevelNotStoredError (LookupError)
    ├── UnknownNameError (LookupError)                 no such set, image, band, case
    ├── OutsideFootprintError (LookupError)            no image covers the position
    ├── NeedNotMetError (LookupError)                  no level is recorded to meet the need
    ├── InvalidNeedError (ValueError)                  a need that cannot be understood
    ├── InvalidRequestError (ValueError)               arguments that cannot be met
    ├── MemoryCapError (MemoryError)                   what was asked takes more than is allowed
    ├── ConfigError (ValueError)                       survey.toml
    ├── InputError (ValueError)                        one bad survey file: it is set aside
    │   └── EmptyInputError                            a sound file that holds nothing
    ├── TooManyBadInputsError (RuntimeError)           more set aside than the configuration allows
    └── MissingDependencyError (ImportError)           an optional library is missing

A message says what failed, the value met, what is allowed, and what to do next.
"""


class SkyfoldError(Exception):
    """Base of every error that skyfold raises on purpose."""


class ReleaseError(SkyfoldError):
    """A release as a whole cannot be used."""


class ReleaseNotFoundError(ReleaseError, FileNotFoundError):
    """There is no release at the URL."""


class UnsealedReleaseError(ReleaseError, RuntimeError):
    """The release has no manifest: it is still being written, or its build was stopped."""


class SealedReleaseError(ReleaseError, RuntimeError):
    """The release is sealed and cannot be changed."""


class QuarantineError(ReleaseError, RuntimeError):
    """The release loses more than its base is recorded to lose, and is not published."""


class FormatVersionError(ReleaseError, ValueError):
    """The release was written in a format that this version does not read."""


class StoreUnavailableError(ReleaseError, OSError):
    """The store refused, timed out or broke off."""


class CorruptDataError(SkyfoldError, ValueError):
    """Stored bytes are not what was written; the message names the key."""


class UntrustedModelError(CorruptDataError):
    """A stored network uses what a decoder may not use, so it is not run."""


class UnknownCodecError(SkyfoldError, LookupError):
    """Bytes of a codec that this version does not have."""


class LevelNotStoredError(SkyfoldError, LookupError):
    """The fidelity level is not one of those stored."""


class UnknownNameError(SkyfoldError, LookupError):
    """No set, image, catalog, band or science case has this name."""


class OutsideFootprintError(SkyfoldError, LookupError):
    """No image of the release covers the position."""


class NeedNotMetError(SkyfoldError, LookupError):
    """No fidelity level is recorded to meet the need.

    Attributes
    ----------
    table : astropy.table.Table or None
        The rows of the fidelity record that were considered.
    """

    def __init__(self, message: str, table: object = None) -> None:
        super().__init__(message)
        self.table = table


class InvalidNeedError(SkyfoldError, ValueError):
    """A need whose text or unit cannot be understood."""


class InvalidRequestError(SkyfoldError, ValueError):
    """Arguments that no release could meet."""


class MemoryCapError(SkyfoldError, MemoryError):
    """What was asked takes more memory than the cap that the user set."""


class ConfigError(SkyfoldError, ValueError):
    """A survey configuration that cannot be used; the message names the field."""


class InputError(SkyfoldError, ValueError):
    """One survey file, HDU or row that cannot be archived; the message names it."""


class EmptyInputError(InputError):
    """A sound image that holds nothing to archive: constant, all blank, all NaN."""


class TooManyBadInputsError(SkyfoldError, RuntimeError):
    """More inputs were set aside than the configuration allows."""


class MissingDependencyError(SkyfoldError, ImportError):
    """An optional library is needed; the message says how to install it."""
