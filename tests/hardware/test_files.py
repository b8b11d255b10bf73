"""Files and folders appear whole or not at all."""

import pytest

from hardware.errors import InputError
from hardware.files import cache_directory, check_writable, replacing, replacing_directory, write_text


def names(folder):
    """Everything in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_text_is_written_and_nothing_else_is_left(tmp_path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "größe\n")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == "größe\n".encode()
    assert names(tmp_path / "new" / "folder") == ["a.txt"]


def test_the_old_file_stands_until_the_block_has_ended(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename within one file system is atomic
        assert temporary.suffix == path.suffix  # libraries choose the format by it
    assert path.read_text() == "new"


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_in_the_block_leaves_all_as_it_was(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        write_half()
    assert names(tmp_path) == (["a.txt"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.parametrize(
    "place", ["folder", "file/a.txt", "file/folder/a.txt", pytest.param("n" * 300, id="long name")]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*(file|folder|nnn).*; choose a writable place\."):
        write_text(tmp_path / place, "x")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("place", ["file/a.txt", "file/folder/a.txt", "folder"])
def test_an_unwritable_place_is_found_before_the_work(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*(file|folder)"):
        check_writable(tmp_path / place)


def test_asking_whether_a_place_is_writable_leaves_nothing_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    check_writable(tmp_path / "a.txt")
    check_writable(tmp_path / "b.txt")
    check_writable(tmp_path / "new" / "folder" / "c.txt")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    path = tmp_path / "package"
    for content in ("old", "new"):
        with replacing_directory(path) as temporary:
            (temporary / f"{content}.txt").write_text(content)
        assert names(path) == [f"{content}.txt"]
    assert names(tmp_path) == ["package"]


def test_an_error_while_filling_leaves_the_old_folder(tmp_path):
    path = tmp_path / "package"
    path.mkdir()
    (path / "old.txt").write_text("old")

    def fill_half() -> None:
        with replacing_directory(path) as temporary:
            (temporary / "new.txt").write_text("new")
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        fill_half()
    assert names(tmp_path) == ["package"]
    assert names(path) == ["old.txt"]


def test_an_error_while_renaming_leaves_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "package"
    path.mkdir()
    (path / "old.txt").write_text("old")
    rename = type(path).rename

    def refuse_the_new(self, target):
        if (self / "new.txt").exists():
            raise PermissionError(1, "refused")
        return rename(self, target)

    def fill() -> None:
        with replacing_directory(path) as temporary:
            (temporary / "new.txt").write_text("new")

    monkeypatch.setattr(type(path), "rename", refuse_the_new)
    with pytest.raises(InputError, match=r"cannot write .*package: refused"):
        fill()
    assert names(tmp_path) == ["package"]
    assert names(path) == ["old.txt"]


def test_a_folder_in_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def fill() -> None:
        with replacing_directory(tmp_path / "file" / "package"):
            pass

    with pytest.raises(InputError, match=r"cannot write .*package"):
        fill()


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("CODESIGN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "codesign"
