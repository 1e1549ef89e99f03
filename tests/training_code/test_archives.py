"""Archives that strangers made."""

import errno
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import archives
import pytest


def make_zip(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file


def make_tar(file: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                opened.addfile(entry, io.BytesIO(member[1]))
    return file


def tar_entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.linkname = target
    return entry


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz", "photos.tgz"])
def test_members_come_out_whole(tmp_path: Path, name: str) -> None:
    # GIVEN an archive of two files and a folder
    file = tmp_path / name
    if name.endswith("zip"):
        make_zip(file, {"cat/": b"", "cat/1.jpg": b"one", "dog/2.jpg": b"two"})
    else:
        make_tar(file, [tar_entry("cat", tarfile.DIRTYPE), ("cat/1.jpg", b"one"), ("dog/2.jpg", b"two")])

    # WHEN it is unpacked
    archives.unpack(file, tmp_path / "out")

    # THEN the files are there, under names of our own
    members = list(archives.members(tmp_path / "out"))
    assert [(member.name, member.path.read_bytes()) for member in members] == [
        ("cat/1.jpg", b"one"),
        ("dog/2.jpg", b"two"),
    ]
    assert all(member.path.parent == tmp_path / "out" for member in members)


UNSAFE_NAMES = ["../evil.jpg", "cat/../../evil.jpg", "/etc/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "C:/evil.jpg"]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    # GIVEN an archive with a good member and one that would leave the folder
    if kind == "zip":
        file = make_zip(tmp_path / "evil.zip", {"cat/1.jpg": b"one", name: b"evil"})
    else:
        file = make_tar(tmp_path / "evil.tar", [("cat/1.jpg", b"one"), (name, b"evil")])

    # WHEN it is unpacked, THEN it is refused whole, and names the member
    with pytest.raises(archives.BadArchive, match="UnsafeArchive") as caught:
        archives.unpack(file, tmp_path / "out")
    assert caught.value.unsafe
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    file = make_tar(tmp_path / "a.tar", [("cat/1.jpg", b"one"), tar_entry("cat/2.jpg", kind, "/etc/passwd")])
    with pytest.raises(archives.BadArchive, match="link or a device") as caught:
        archives.unpack(file, tmp_path / "out")
    assert caught.value.unsafe


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    # GIVEN a zip whose member is marked as a symbolic link, as Info-ZIP stores them
    link = zipfile.ZipInfo("cat/1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")

    # WHEN it is unpacked, THEN it is refused
    with pytest.raises(archives.BadArchive, match="link or a device") as caught:
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert caught.value.unsafe


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off"])
def test_damaged_archives_say_so(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(archives.BadArchive, match="cannot be unpacked") as caught:
        archives.unpack(tmp_path / name, tmp_path / "out")
    assert not caught.value.unsafe


def test_archive_cut_off_in_the_middle(tmp_path: Path) -> None:
    # GIVEN a tar.gz whose upload broke off
    file = make_tar(tmp_path / "a.tar.gz", [(f"cat/{n}.jpg", bytes(range(256)) * 40) for n in range(20)])
    file.write_bytes(file.read_bytes()[:-100])

    # WHEN it is unpacked, THEN it is refused, and nothing is left behind
    with pytest.raises(archives.BadArchive, match="cannot be unpacked"):
        archives.unpack(file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_encrypted_zip_says_so(tmp_path: Path) -> None:
    # GIVEN a zip whose member has the flag of encryption set, in both of its headers
    data = bytearray(make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"one"}).read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)

    # WHEN it is unpacked, THEN the reason names the encryption
    with pytest.raises(archives.BadArchive, match="encrypted"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_limits_on_size_and_count(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN an archive of three members that unpack to 3,000 bytes
    members = {f"cat/{number}.jpg": bytes(1000) for number in range(3)}
    file = tmp_path / name
    make_zip(file, members) if name.endswith("zip") else make_tar(file, list(members.items()))

    # WHEN a limit is just met, THEN it is unpacked; WHEN it is exceeded, THEN it is refused
    for limit, value in (("MAX_MEMBERS", 3), ("MAX_UNPACKED_BYTES", 3000)):
        with monkeypatch.context() as patch:
            patch.setattr(archives, limit, value)
            archives.unpack(file, tmp_path / f"within-{limit}")
            assert len(list(archives.members(tmp_path / f"within-{limit}"))) == 3
            patch.setattr(archives, limit, value - 1)
            with pytest.raises(archives.BadArchive, match="too large"):
                archives.unpack(file, tmp_path / f"beyond-{limit}")


@pytest.mark.parametrize("field", ["size", "checksum"])
def test_a_damaged_member_of_a_zip_costs_that_member_only(tmp_path: Path, field: str) -> None:
    # GIVEN a zip whose directory says 10 bytes for a member of 1,000, or another checksum
    data = bytearray(make_zip(tmp_path / "a.zip", {"cat/1.jpg": bytes(1000), "cat/2.jpg": b"two"}).read_bytes())
    directory = data.index(b"PK\x01\x02")
    if field == "size":
        data[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    else:
        data[directory + 16] ^= 1
    (tmp_path / "a.zip").write_bytes(data)

    # WHEN it is unpacked, THEN that member is damaged and nothing of it is left; the other is whole
    archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    damaged, whole = archives.members(tmp_path / "out")
    assert damaged.is_damaged
    assert not damaged.path.exists()
    assert not whole.is_damaged
    assert whole.path.read_bytes() == b"two"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_large_and_empty_members_are_named_and_not_unpacked(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an archive with a member above the limit for files, and an empty one
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100)
    members = {"a": bytes(101), "b": b"", "c": bytes(100)}
    file = tmp_path / name
    make_zip(file, members) if name.endswith("zip") else make_tar(file, list(members.items()))

    # WHEN it is unpacked, THEN all are listed with their sizes, and only the third lies there
    archives.unpack(file, tmp_path / "out")
    found = list(archives.members(tmp_path / "out"))
    assert [(member.name, member.size, member.path.exists()) for member in found] == [
        *(("a", 101, False), ("b", 0, False), ("c", 100, True)),
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_grows_like_no_photos_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an archive of zeros, beyond what a small archive may unpack to
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 10_000)
    members = {f"{number}.bmp": bytes(2_000_000) for number in range(3)}
    file = tmp_path / name
    make_zip(file, members) if name.endswith("zip") else make_tar(file, list(members.items()))

    # WHEN it is unpacked, THEN it is refused
    with pytest.raises(archives.BadArchive, match="200 times its size"):
        archives.unpack(file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_long_names_are_refused(tmp_path: Path, name: str) -> None:
    members = {"cat/" + "n" * 1025: b"one"}
    file = tmp_path / name
    make_zip(file, members) if name.endswith("zip") else make_tar(file, list(members.items()))
    with pytest.raises(archives.BadArchive, match=r"longer than 1,024 bytes.{130,200}$") as caught:
        archives.unpack(file, tmp_path / "out")
    assert not caught.value.unsafe


@pytest.mark.parametrize("field", ["count", "length"])
def test_a_zip_with_a_huge_directory_is_refused_unread(
    tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a zip whose end announces more members, or a longer directory, than there may be
    data = bytearray(make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"one"}).read_bytes())
    end = data.index(b"PK\x05\x06")
    if field == "count":
        monkeypatch.setattr(archives, "MAX_MEMBERS", 1000)
        data[end + 10 : end + 12] = (1001).to_bytes(2, "little")
    else:
        data[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    monkeypatch.setattr(zipfile, "ZipFile", None)

    # WHEN it is unpacked, THEN it is refused before zipfile has seen it
    with pytest.raises(archives.BadArchive, match="too large"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a disk that is full
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_copy", fail)
    file = make_tar(tmp_path / "a.tar", [("cat/1.jpg", b"one")])

    # WHEN an archive is unpacked, THEN the reason is the disk
    with pytest.raises(archives.BadArchive, match="do not fit onto the disk"):
        archives.unpack(file, tmp_path / "out")
