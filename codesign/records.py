"""Files of JSON lines that survive a SIGKILL at any moment: appended to, never rewritten."""

import json
from pathlib import Path
from typing import Any

from hardware.errors import InputError


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a line; it is the operating system's when this returns.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable place.") from None


def read_records(path: Path) -> list[dict[str, Any]]:
    """All lines; none if there is no file. A last line that was being written when its process died is cut off.

    Raises
    ------
    InputError
        The file cannot be read, or something else was written into it.
    """
    try:
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        return [dict(json.loads(line)) for line in content[:whole].splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another --out and start again.") from None
