"""References to the hub, and downloads from it: what is legal, cached, and refused in one line."""

import sys

import pytest
from hub_server import TOKEN, downloads
from huggingface_hub import constants
from messages import one_line

from mnet_jax.weights import hub
from mnet_jax.weights.hub import HubError, MissingFileError, Reference

FILE = "model.safetensors"
MOST = 10**6
CONTENT = bytes(range(256)) * 40
ME = Reference(owner="me", name="net")


def fetched(reference=ME, file=FILE, most=MOST):
    return hub.fetch(reference, file, most)


def refused(*words, reference=ME, file=FILE, most=MOST, error=HubError):
    return one_line(error, lambda: fetched(reference, file, most), *words)


def cached_bytes(tmp_path):
    """Names and sizes of all that a download has left in the cache, but for locks and refs."""
    kept = [path for kind in ("blobs", "snapshots") for path in tmp_path.rglob(f"{kind}/**/*")]
    return {path.name: path.stat().st_size for path in kept if path.is_file()}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("hf://me/net", ("me", "net", None, None)),
        ("hf://me/net@main", ("me", "net", "main", None)),
        ("hf://timm/mobilenetv4_conv_small.e2400_r224_in1k", (
            "timm", "mobilenetv4_conv_small.e2400_r224_in1k", None, None)),
        ("hf://me/net@v1.0/a.safetensors", ("me", "net", "v1.0", "a.safetensors")),
        ("hf://me/net/digits/model.safetensors", ("me", "net", None, "digits/model.safetensors")),
    ],
)  # fmt: skip
def test_a_reference_has_its_parts_and_its_text(text, fields):
    found = Reference.parse(text)
    assert (found.owner, found.name, found.revision, found.file) == fields
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf://", "hf://me", "hf://me/", "hf:///net", "hf://me/net/", "hf://me/net@", "hf://me/net@/x",
        "hf://me/ne t", "hf://../net", "hf://me/..", "hf://me/../../etc/passwd.safetensors",
        "hf://me/net/../x.safetensors", "hf://me/net//x.safetensors", "hf://me/net/./x.safetensors",
        "hf://me/net@../x.safetensors", "hf://me/net@a b", "hf://me/a..b", "hf://me/a--b",
        "hf://me/net.git", "hf://-me/net", "hf://me/.net", "hf://me/n\net", "hf://me/net\n",
        "hf://me/néé", "hf://me/net/pytorch_model.bin", "hf://me/net/model.pt", "hf://me/net/folder",
        "hf://me/net@a@b", "hf://me/net?x=1", "hf://me/net%2Fx", "hf://" + "a" * 97 + "/net",
        "https://huggingface.co/me/net", "me/net", "HF://me/net",
    ],
)  # fmt: skip
def test_an_illegal_reference_is_refused_with_what_is_legal(text):
    one_line(ValueError, lambda: Reference.parse(text), repr(text), hub.LEGAL)


def test_a_reference_made_by_hand_is_checked_too():
    one_line(ValueError, lambda: Reference(owner="me", name="a/b"), hub.LEGAL)
    one_line(ValueError, lambda: Reference(owner="me", name="a", file="../x.safetensors"))


def test_a_file_is_downloaded_once_and_then_found_without_a_network(hub_server):
    commit = hub_server.add("me/net", {FILE: CONTENT})
    first = fetched()
    assert first.path.read_bytes() == CONTENT and first.commit == commit
    assert fetched() == first and len(downloads(hub_server)) == 1
    hub_server.close()
    assert fetched() == first
    hub_server.requests.clear()
    assert fetched(ME.at(commit)) == first and not hub_server.requests


def test_offline_mode_finds_what_is_cached_and_asks_nobody(hub_server, monkeypatch):
    hub_server.add("me/net", {FILE: CONTENT})
    hub_server.add("me/other", {FILE: CONTENT})
    first = fetched()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_server.requests.clear()
    assert fetched() == first
    refused("hf://me/other", FILE, "HF_HUB_OFFLINE", reference=Reference(owner="me", name="other"))
    assert not hub_server.requests


def test_without_a_network_and_a_cache_the_reason_is_said(hub_server, monkeypatch, tmp_path):
    hub_server.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's tries
    refused("hf://me/net", FILE, "not in the cache", "cannot be reached")
    assert not cached_bytes(tmp_path)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub_server):
    first = hub_server.add("me/net", {FILE: CONTENT}, revision="v1.0")
    second = hub_server.add("me/net", {FILE: CONTENT[::-1]})
    assert fetched().commit == second
    for revision in ("v1.0", first):
        found = fetched(ME.at(revision))
        assert found.commit == first and found.path.read_bytes() == CONTENT


def test_a_branch_that_has_moved_is_downloaded_again(hub_server):
    hub_server.add("me/net", {FILE: CONTENT})
    fetched()
    commit = hub_server.add("me/net", {FILE: CONTENT[::-1]})
    found = fetched()
    assert found.commit == commit and found.path.read_bytes() == CONTENT[::-1]


def test_a_broken_connection_is_resumed_where_it_broke(hub_server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at a time
    hub_server.add("me/net", {FILE: CONTENT})
    hub_server.faults.drop_after = 4500
    assert fetched().path.read_bytes() == CONTENT
    assert downloads(hub_server) == [None, "bytes=4000-"]


def test_a_truncated_file_is_refused_and_not_cached(hub_server, tmp_path):
    hub_server.add("me/net", {FILE: CONTENT})
    hub_server.faults.short = 7
    refused("hf://me/net", FILE, len(CONTENT), len(CONTENT) - 7)
    assert not cached_bytes(tmp_path)
    hub_server.faults.short = 0
    assert fetched().path.read_bytes() == CONTENT


@pytest.mark.parametrize("file", [FILE, "config.json"])
def test_a_file_with_another_digest_is_refused_and_not_kept(file, hub_server, tmp_path):
    hub_server.add("me/net", {file: CONTENT})
    hub_server.faults.flip = True
    refused("hf://me/net", file, "damaged", "digest", file=file)
    assert not cached_bytes(tmp_path)
    hub_server.faults.flip = False
    assert fetched(file=file).path.read_bytes() == CONTENT


def test_a_file_that_was_damaged_in_the_cache_is_downloaded_again(hub_server):
    hub_server.add("me/net", {FILE: CONTENT})
    path = fetched().path
    path.write_bytes(CONTENT[:-1] + b"?")
    refused("hf://me/net", "damaged", "deleted")
    assert fetched().path.read_bytes() == CONTENT


def test_what_does_not_exist_is_named(hub_server):
    hub_server.add("me/net", {FILE: CONTENT})
    refused("hf://me/none", "no such repository", reference=Reference(owner="me", name="none"))
    refused("hf://me/net@v2", "no such revision", reference=ME.at("v2"))
    refused("hf://me/net", "other.safetensors", file="other.safetensors", error=MissingFileError)


@pytest.mark.parametrize("access", ["private", "gated"])
def test_a_repository_that_needs_a_token_says_so_and_is_read_with_one(
    access, hub_server, monkeypatch
):
    hub_server.add("me/net", {FILE: CONTENT}, access=access)
    refused("hf://me/net", access, "HF_TOKEN", "hf auth login")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched().path.read_bytes() == CONTENT


def test_a_forbidden_repository_needs_another_token(hub_server):
    hub_server.add("me/net", {FILE: CONTENT}, access="forbidden")
    refused("hf://me/net", "403", "HF_TOKEN")


def test_a_file_that_is_too_large_is_not_downloaded(hub_server, tmp_path):
    hub_server.add("me/net", {FILE: CONTENT})
    refused("hf://me/net", FILE, len(CONTENT), 10_000, most=10_000)
    assert not downloads(hub_server) and not cached_bytes(tmp_path)


def test_the_files_of_a_repository_are_listed(hub_server):
    hub_server.add("me/net", {FILE: CONTENT, "config.json": b"{}"})
    assert sorted(hub.file_names(ME)) == ["config.json", FILE]
    one_line(HubError, lambda: hub.file_names(Reference(owner="me", name="none")), "no such")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://me/net", "huggingface_hub", "pip install mnet_jax[hub]")
