"""Archives that strangers made."""

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
    members = archives.unpack(file, tmp_path / "out")

    # THEN the files are there, under names of our own
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
            assert len(archives.unpack(file, tmp_path / f"within-{limit}")) == 3
            patch.setattr(archives, limit, value - 1)
            with pytest.raises(archives.BadArchive, match="too large"):
                archives.unpack(file, tmp_path / f"beyond-{limit}")


def test_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    # GIVEN a zip whose directory says 10 bytes for a member of 1,000
    data = bytearray(make_zip(tmp_path / "a.zip", {"cat/1.jpg": bytes(1000)}).read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)

    # WHEN it is unpacked, THEN it is refused, and no more than was declared has been written
    with pytest.raises(archives.BadArchive):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
