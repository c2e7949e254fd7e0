"""Files that are whole or absent: written under another name, then renamed."""

from __future__ import annotations

import os
from pathlib import Path


class WholeFile:
    """A file that appears under its name when it is finished; use with `with`.

    Leaving the `with` by an error removes what was written and keeps what was there before.

    Attributes:
        path: where the file appears; behind a link, the file that the link names.
        partial: where to write until then, hidden beside it. A device or a pipe has `path`
            itself: renaming would put a file in its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        is_special = path.exists() and not path.is_file()
        self.partial = path if is_special else self.path.with_name(_partial_name(self.path))

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.partial.name != _partial_name(self.path) or not self.partial.exists():
            return
        try:
            if kind is None:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def _partial_name(path: Path) -> str:
    return f".{path.stem}.partial{path.suffix}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; it names `path`.
    """
    try:
        with WholeFile(path) as file:
            file.partial.write_bytes(content)
    except OSError as err:
        raise about(err, path) from err


def about(err: OSError, path: Path) -> OSError:
    """The same error said of the file that the caller asked for; a full disk names none."""
    return OSError(err.errno, err.strerror or str(err), str(path))
