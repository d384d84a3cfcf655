"""Sets from the files that their makers publish: read as specified, or refused in one line."""

import dataclasses
import hashlib
import io
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from idx_files import write_idx
from messages import one_line
from PIL import Image

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import archived, imagenette, published
from mnet_jax.data.published import PublishedFile

pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)
RNG = np.random.default_rng(0)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """One for each test: what is prepared is named after published files that are no one's."""
    root = tmp_path / "tfds"
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return root


def load(name, directory=None, **options):
    config = DataConfig(name=name, directory=directory and str(directory), **options)
    return data.load(config)


def as_published(path, file):
    """`file` as if what is at `path` had been published."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(file, size_bytes=len(content), sha256=digest)


def write_tar(path, contents):
    """A gzipped tar; a value that is no bytes is a whole TarInfo without content."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)


def seen(*splits):
    """(label, pixels) of all images, in no order."""
    examples = [split[index] for split in splits for index in range(len(split))]
    return sorted((example["label"], example["image"].tobytes()) for example in examples)


def in_no_order(images, labels):
    images = np.broadcast_to(images, (*images.shape[:3], 3))  # gray is repeated
    return sorted((int(y), x.tobytes()) for x, y in zip(images, labels, strict=True))


def test_sizes_and_digests_are_those_of_tfds():
    folder = Path(tfds.__file__).parent
    lists = [folder / "url_checksums" / f"{name}.txt" for name in ("cifar10", "cifar100", "mnist")]
    lists.append(folder / "datasets" / "imagenette" / "checksums.tsv")
    theirs = {
        PublishedFile(url=url, size_bytes=int(size), sha256=digest)
        for path in lists
        for url, size, digest, *_ in (line.split("\t") for line in path.read_text().splitlines())
    }
    ours = [file for builder in archived.ARCHIVED.values() for file in builder.FILES]
    assert {*ours, *imagenette.FILES.values()} == theirs


def test_imagenettes_sizes_have_tfds_names():
    configs = tfds.builder_cls("imagenette").BUILDER_CONFIGS
    assert [*imagenette.FILES] == [config.name for config in configs]
    for config in configs:
        assert imagenette.FILES[config.name].name == f"{config.dirname}.tgz"


def cifar_contents(kind):
    """The members of an archive of `kind`, and the images and labels in it by split."""
    contents = {f"{kind.folder}/readme.html": b"no records"}
    arrays = {}
    for split, names in kind.splits.items():
        count = kind.records[split]
        images = RNG.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = RNG.integers(0, len(kind.class_names), count, np.uint8)
        coarse = RNG.integers(0, 20, count, np.uint8)  # CIFAR-100's come first
        records = [
            bytes([c, y][-kind.labels :]) + x.transpose(2, 0, 1).tobytes()
            for c, y, x in zip(coarse, labels, images, strict=True)
        ]
        share = count // len(names)
        for at, name in enumerate(names):
            part = records[at * share : (at + 1) * share]
            contents[f"{kind.folder}/{name}"] = b"".join(part)
        arrays[split] = images, labels
    lines = "\n".join(kind.class_names) + "\n\n"
    contents[f"{kind.folder}/{kind.names_file}"] = lines.encode()
    return contents, arrays


@pytest.fixture(params=["cifar10", "cifar100"])
def small_cifar(request, tmp_path, monkeypatch):
    """A name, and what publishes an archive of 50 and 20 images for it from its members."""
    name = request.param
    kind = dataclasses.replace(
        getattr(published, name.upper()), records={"train": 50, "test": 20}
    )  # fmt: skip
    monkeypatch.setattr(archived.ARCHIVED[name], "SET", kind)
    archive = tmp_path / "given" / kind.file.name
    archive.parent.mkdir()

    def publish(contents):
        write_tar(archive, contents)
        monkeypatch.setattr(archived.ARCHIVED[name], "FILES", (as_published(archive, kind.file),))
        return archive

    return name, kind, publish


def test_cifar_is_what_the_archive_holds(small_cifar, data_folder):
    name, kind, publish = small_cifar
    contents, arrays = cifar_contents(kind)
    archive = publish(contents)
    dataset = load(name, archive.parent, resolution=32)
    assert dataset.class_names == kind.class_names
    assert seen(dataset.train, dataset.validation) == in_no_order(*arrays["train"])
    assert seen(dataset.test) == in_no_order(*arrays["test"])
    # Once prepared, the archive is not needed again.
    archive.unlink()
    again = load(name, resolution=32)
    np.testing.assert_array_equal(again.test.images, dataset.test.images)
    # Where TFDS has people put what they download.
    manual = data_folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    assert publish({**contents, "more": b"1"}).rename(manual / archive.name)
    np.testing.assert_array_equal(load(name, resolution=32).test.images, dataset.test.images)


def test_cifar_archives_that_cannot_serve(small_cifar):
    name, kind, publish = small_cifar
    contents, _ = cifar_contents(kind)

    def refused(changes, *words):
        archive = publish({**contents, **changes})
        complaint(lambda: load(name, archive.parent), archive, *words)

    test = f"{kind.folder}/{kind.splits['test'][0]}"
    refused({test: contents[test][:-1]}, "20 records")
    refused({test: bytes(10**6)}, test, "legal: up to")
    refused({test: b"\xff" * len(contents[test])}, "label 255")
    refused({f"{kind.folder}/{kind.names_file}": b"cat\ndog\n"}, kind.names_file)
    link = tarfile.TarInfo(test)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    refused({test: link}, "lacks", kind.splits["test"][0])
    archive = publish(contents)
    archive.write_bytes(archive.read_bytes()[:-1])
    complaint(lambda: load(name, archive.parent), archive, "bytes", kind.file.url)
    changed = bytearray(publish(contents).read_bytes())
    changed[500] ^= 1
    archive.write_bytes(changed)
    complaint(lambda: load(name, archive.parent), archive, "SHA-256", "fetch it again")


def test_mnist_is_what_the_files_hold_and_fashion_is_none(tmp_path, monkeypatch):
    arrays = []
    for count in (40, 12):
        arrays += [RNG.integers(0, 256, (count, 28, 28), np.uint8), RNG.integers(0, 10, count)]
    for file, array in zip(archived.MNIST_FILES, arrays, strict=True):
        write_idx(tmp_path / file.name, array)
    # Fashion-MNIST's files have the same names.
    complaint(lambda: load("mnist", tmp_path), archived.MNIST_FILES[0].name, "legal: the 9912422")
    files = tuple(as_published(tmp_path / file.name, file) for file in archived.MNIST_FILES)
    monkeypatch.setattr(archived.MnetMnist, "FILES", files)
    dataset = load("mnist", tmp_path, resolution=28)
    assert dataset.class_names == tuple("0123456789")
    assert seen(dataset.train, dataset.validation) == in_no_order(arrays[0][..., None], arrays[1])
    assert seen(dataset.test) == in_no_order(arrays[2][..., None], arrays[3])


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "imagenette", "imagenette/160px"])
def test_what_is_absent_says_where_it_was_looked_for(name, data_folder, tmp_path):
    files = {
        "imagenette": ["imagenette2-320.tgz"], "imagenette/160px": ["imagenette-160.tgz"],
    }.get(name) or [file.name for file in archived.ARCHIVED[name].FILES]  # fmt: skip
    manual = data_folder / "downloads" / "manual"
    build = f"tfds build {name} --file_format=array_record"
    complaint(lambda: load(name), *files, f"{data_folder}, {manual}", "https://", build)
    complaint(lambda: load(name, tmp_path / "given"), *files, tmp_path / "given", "directory")
    assert not data_folder.exists()


def test_files_to_log_in_for_are_said_to_be_needed(data_folder):
    complaint(lambda: load("imagenet2012"), f"{data_folder}/downloads/manual", "tfds build")
    assert "manual" not in complaint(lambda: load("oxford_iiit_pet"), "tfds build")


def jpeg(level, size):
    content = io.BytesIO()
    Image.new("RGB", size, (level, 5, 250)).save(content, "JPEG", quality=95)
    return content.getvalue()


def imagenette_contents(top):
    """Two classes of photographs of many sizes, whose red is their number."""
    contents = {f"{top}/noisy_imagenette.csv": b"path,label"}
    for number in range(12):
        split = "train" if number < 8 else "val"
        name = f"{top}/{split}/n0{number % 2:07}/ILSVRC2012_val_{number}.JPEG"
        contents[name] = jpeg(20 * number, (40 + number, 30))
    return contents


def test_imagenette_from_its_archive_or_unpacked(tmp_path, monkeypatch, data_folder):
    def levels(split):
        return [round(float(split[i]["image"][0, 0, 0]) / 20) for i in range(len(split))]

    def check(dataset):
        assert dataset.class_names == ("n00000000", "n00000001")
        assert sorted(levels(dataset.train) + levels(dataset.validation)) == [*range(8)]
        assert levels(dataset.test) == [10, 8, 11, 9]  # by name: 10 stands before 8
        assert [dataset.test[i]["label"] for i in range(4)] == [0, 0, 1, 1]

    given = tmp_path / "given"
    given.mkdir()
    outside = {
        "../../evil.JPEG": jpeg(0, (8, 8)), "/tmp/evil.JPEG": jpeg(0, (8, 8)),
        "imagenette2-160/train/n00000000/../../../evil.JPEG": jpeg(0, (8, 8)),
    }  # fmt: skip
    link = tarfile.TarInfo("imagenette2-160/train/n00000000/link.JPEG")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive = given / "imagenette2-160.tgz"
    write_tar(archive, imagenette_contents("imagenette2-160") | outside | {link.name: link})
    complaint(lambda: load("imagenette", given), archive, "legal: the 99003388")
    file = as_published(archive, imagenette.FILES["160px-v2"])
    monkeypatch.setitem(imagenette.FILES, "160px-v2", file)
    for name in ("imagenette", "imagenette/160px-v2"):
        check(load(name, given, resolution=16))
    limited = load("imagenette", given, resolution=16, max_image_pixels=1300)
    complaint(lambda: limited.test[0], "val_10.JPEG", "50 x 30 are 1,500 pixels", "1,300")
    assert not list(tmp_path.rglob("evil*")) and not list(tmp_path.rglob("link*"))
    assert [path.name for path in data_folder.iterdir()] == ["mnet_imagenette"]
    other_size = given / "imagenette" / "320px-v2" / "1.0.0"
    other_size.mkdir(parents=True)
    (other_size / "dataset_info.json").touch()  # as TFDS has prepared it
    check(load("imagenette/160px-v2", given, resolution=16))
    shutil.rmtree(given / "imagenette")
    archive.unlink()
    check(load("imagenette/160px-v2", resolution=16))  # unpacked before

    with pytest.MonkeyPatch.context() as patch:
        write_tar(tmp_path / "other.tgz", imagenette_contents("imagenette2-320"))
        with tarfile.open(tmp_path / "other.tgz") as other:
            other.extractall(given)
        check(load("imagenette", given, resolution=16))
        check(load("imagenette", given / "imagenette2-320", resolution=16))
        patch.setenv("TFDS_DATA_DIR", str(given))
        check(load("imagenette", resolution=16))
    (given / "imagenette2-160.tgz").write_bytes(b"")
    complaint(lambda: load("imagenette", given), "imagenette/320px-v2", "imagenette/160px-v2")
    complaint(lambda: load("imagenette/64px", given), "imagenette/64px", "imagenette/160px-v2")


def test_an_imagenette_that_holds_other_things(tmp_path, monkeypatch, data_folder):
    archive = tmp_path / "imagenette2-160.tgz"
    write_tar(archive, {"imagenette2-160/train/notes.txt": b"no image"})
    file = as_published(archive, imagenette.FILES["160px-v2"])
    monkeypatch.setitem(imagenette.FILES, "160px-v2", file)
    complaint(lambda: load("imagenette", tmp_path), archive, "train/")
    large = {"imagenette2-160/train/n00000000/a.JPEG": bytes(imagenette._MOST_BYTES + 1)}
    write_tar(archive, large)
    monkeypatch.setitem(imagenette.FILES, "160px-v2", as_published(archive, file))
    complaint(lambda: load("imagenette", tmp_path), archive, "a.JPEG", "legal: up to")
    assert not list(data_folder.glob("mnet_imagenette/*"))
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(blocked))
    complaint(lambda: load("imagenette", tmp_path), blocked, "TFDS_DATA_DIR")
