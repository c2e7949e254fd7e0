"""Files that are whole or absent, written under another name and then renamed; the cache folder."""

from __future__ import annotations

import os
from pathlib import Path


class WholeFile:
    """A file that appears under its name when it is kept.

    Attributes:
        path: where the file appears; behind a link, the file that the link names.
        partial: where to write until then, hidden beside it. A device or a pipe is written in
            place: renaming would put a file where it was.

    Example:
        >>> WholeFile(Path("found.csv")).partial.name
        '.found.partial.csv'
        >>> str(WholeFile(Path(os.devnull)).partial) == os.devnull
        True
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._is_renamed = path.is_file() or not path.exists()
        self.partial = path
        if self._is_renamed:
            self.partial = self.path.with_name(f".{path.stem}.partial{path.suffix}")

    def keep(self) -> None:
        """Give the file its name, in place of what had it; does nothing if nothing was written."""
        if self._is_renamed and self.partial.exists():
            os.replace(self.partial, self.path)

    def drop(self) -> None:
        """Remove what was written and not kept."""
        if self._is_renamed and self.partial.exists():
            self.partial.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; it names `path`.
    """
    file = WholeFile(path)
    try:
        file.partial.write_bytes(content)
        file.keep()
    except OSError as err:
        raise about(err, str(path)) from err
    finally:
        file.drop()


def user_cache() -> Path:
    """The folder for what this user's commands keep to be faster next time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "irstd"


def about(err: OSError, name: str) -> OSError:
    """The same error said of what the caller asked for; by itself a full disk names no file."""
    return OSError(err.errno, err.strerror or str(err), name)
