"""Prose of the Python standard library: docstrings and comments of its modules, and ``pydoc``'s language reference.

A word is a run of letters in lower case, a number, or a run of one punctuation mark, so an identifier falls apart at
its underscores: the parts are ordinary words, which keeps the vocabulary small without learned sub-words.
"""

import ast
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from hardware.errors import InputError

Words = tuple[str, ...]

_LANGUAGE = "language"
"""The group that is ``pydoc``'s reference; the others are lists of modules and packages, where a version has them."""
_MODULES = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors signal subprocess threading weakref",
    "mail": "base64 email imaplib mailbox mimetypes poplib quopri smtplib",
    "web": "ftplib html http ipaddress netrc socket socketserver ssl urllib webbrowser wsgiref xmlrpc",
    "numbers": "_pydatetime _pydecimal _strptime bisect calendar colorsys datetime fractions heapq numbers random "
    "statistics zoneinfo",
    "testing": "argparse bdb cmd code codeop doctest logging optparse pdb profile pstats timeit trace traceback "
    "tracemalloc unittest warnings",
    "formats": "configparser csv json pickletools plistlib tomllib xml",
    "files": "_compression _pyio bz2 compression dbm filecmp fileinput fnmatch genericpath glob gzip lzma ntpath os "
    "pathlib posixpath shelve shutil sqlite3 stat tarfile tempfile zipfile",
    "code": "_collections_abc abc ast collections compileall copy ctypes dataclasses dis enum functools importlib "
    "inspect modulefinder pkgutil py_compile re runpy symtable tokenize types typing",
}
_WORD = re.compile(r"[a-z]+|\d+|([^\w\s])\1*")
_NUMBER = "<number>"
_SHORTEST = 4
"""A paragraph of fewer words is a heading or a separator."""


def words(text: str) -> Words:
    """The words of a text.

    >>> words("os.stat_result >>> 42")
    ('os', '.', 'stat', 'result', '>>>', '<number>')
    """
    return tuple(_NUMBER if found[0].isdigit() else found[0] for found in _WORD.finditer(text.lower()))


@cache
def library() -> dict[str, list[list[Words]]]:
    """The documents of every group, each a list of paragraphs, none of which occurs twice.

    Raises
    ------
    InputError
        This Python came without its library's sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[Words] = set()
    groups: dict[str, list[list[Words]]] = {_LANGUAGE: [_new(_split(text), seen) for text in _reference()]}
    for group, names in _MODULES.items():
        files = [path for name in names.split() for path in _sources(root, name)]
        groups[group] = [_new(_prose(path), seen) for path in files]
        if not files:
            raise InputError(
                f"no sources of {names.split()[0]} and the like in {root}: use a Python whose standard library lies "
                "there as .py files."
            )
    return groups


def _reference() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError("this Python has no pydoc_data.topics: install its whole standard library.") from None
    return [topics[name] for name in sorted(topics)]


def _sources(root: Path, name: str) -> list[Path]:
    """A module's file, or a package's, without tests, which some versions keep there."""
    inside = sorted((root / name).rglob("*.py"), key=Path.as_posix)
    found = [path for path in inside if not {"test", "tests"} & set(path.relative_to(root).parts)]
    return found or [path for path in [root / f"{name}.py"] if path.is_file()]


def _prose(path: Path) -> Iterator[str]:
    """The paragraphs of a source file's docstrings and of its comments that have lines of their own, in its order."""
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old escape sequence is not our concern
        tree = ast.parse(source)
    texts: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                texts.append((node.body[0].lineno, docstring))
    lines = [(number, line.strip()) for number, line in enumerate(source.splitlines(), start=1)]
    comments = [(number, line.lstrip("#!: ")) for number, line in lines if line.startswith("#")]
    before = -1
    for number, comment in comments:
        if number == before + 1:
            texts[-1] = (texts[-1][0], f"{texts[-1][1]}\n{comment}")
        else:
            texts.append((number, comment))
        before = number
    for _, text in sorted(texts):
        yield from _split(text)


def _split(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _new(paragraphs: Iterable[str], seen: set[Words]) -> list[Words]:
    """The paragraphs that did not occur before, in words."""
    found = []
    for paragraph in map(words, paragraphs):
        if len(paragraph) >= _SHORTEST and paragraph not in seen:
            seen.add(paragraph)
            found.append(paragraph)
    return found
