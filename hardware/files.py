"""Where files go and how they get there: under a temporary name, then renamed, never half-written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hardware.errors import InputError


def cache_directory() -> Path:
    """What can be made again is kept here: ``$CODESIGN_CACHE``, else ``~/.cache/codesign``."""
    chosen = Path(os.environ.get("CODESIGN_CACHE") or Path.home() / ".cache" / "codesign")
    return chosen.expanduser().absolute()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` when the block ends without an error.

    Raises
    ------
    InputError
        The folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable place.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; it takes the place of ``path`` when the block ends without an error.

    Raises
    ------
    InputError
        The folder or something in it cannot be written.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable place.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)  # only after success: whatever interrupts the renames leaves it


def write_text(path: Path, text: str) -> None:
    """Write a text file by renaming (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path) -> None:
    """Raise `InputError` if ``path`` cannot be written: asked before long work, not after it. Nothing is left there."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file's name.")
    try:
        with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable place.") from None
