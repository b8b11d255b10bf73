"""Frozen specifications read from YAML: unknown fields refused, errors with the field's path."""

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware.errors import InputError, unknown

Name = Annotated[str, Field(pattern=r"^[\w.:+-]+$")]
"""Letters, digits and ``_ . : + -``: names go into scripts and file names."""

PACKAGE = Path(__file__).parent


class Specification(BaseModel):
    """Base of everything a user may write in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_mapping(cls, data: Any, source: str) -> Self:
        """Validate ``data``; `InputError` names every wrong field by its path in ``source``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']} (got {e['input']!r})" for e in error.errors()
            )
            raise InputError(f"{source} is not a valid {cls.__name__}: {problems}.") from None

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read one specification from a YAML file."""
        return cls.from_mapping(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, or an `InputError` that names the file and the line."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None


def built_in(folder: str) -> list[str]:
    """Names of the YAML files shipped in ``hardware/<folder>``."""
    return sorted(p.stem for p in (PACKAGE / folder).glob("*.yaml"))


def find(kind: str, folder: str, name_or_path: str) -> Path:
    """The YAML file that a user's name or path stands for."""
    if name_or_path in built_in(folder):
        return PACKAGE / folder / f"{name_or_path}.yaml"
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    raise unknown(kind, name_or_path, [*built_in(folder), "a path ending in .yaml"])
