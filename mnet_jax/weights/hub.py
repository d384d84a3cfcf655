"""Files of repositories on the Hugging Face hub, named by references such as `hf://owner/name`.

The package `huggingface_hub`, the extra `hub`, downloads and caches the files. Its settings hold:
`HF_HOME` for the cache, `HF_TOKEN` or `hf auth login` for private repositories, `HF_HUB_OFFLINE`
for work without a network, `HF_ENDPOINT` for a mirror.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnet_jax.validation import one_line, require

SCHEME = "hf://"
LEGAL = "hf://owner/name[@revision][/file.safetensors]"
TOKEN = "a token with access, by `hf auth login` or in HF_TOKEN"
_SHA256_DIGITS, _SHA1_DIGITS = 64, 40
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")  # of a file's path, or a revision


class HubError(ValueError):
    """A file of the hub that cannot be had; the message is one line with reference and reason."""


class MissingFileError(HubError):
    """A repository does not have the file."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The address of a repository on the hub, or of a file in it.

    The text of a reference, `hf://owner/name@revision/file`, is `str(reference)`.

    Attributes:
      owner: user or organization.
      name: name of the repository.
      revision: branch, tag or commit; None for the default branch. The name of a branch with a
        slash is not legal; give its commit instead.
      file: path of a .safetensors file in the repository; None for the usual one.
    """

    owner: str
    name: str
    revision: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        for repository in (self.owner, self.name):
            named = _NAME.fullmatch(repository) and "--" not in repository
            self._require(bool(named) and not repository.endswith(".git"))
        parts = [] if self.file is None else self.file.split("/")
        for part in (self.owner, self.name, self.revision, *parts):
            self._require(part is None or (bool(_PART.fullmatch(part)) and ".." not in part))
        self._require(self.file is None or self.file.endswith(".safetensors"))

    def _require(self, holds: bool) -> None:
        require(holds, "reference", str(self), LEGAL)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        file = "" if self.file is None else f"/{self.file}"
        return f"{SCHEME}{self.owner}/{self.name}{revision}{file}"

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Reads a reference; raises ValueError if it is not legal."""
        found = re.fullmatch(r"hf://([^/@]+)/([^/@]+)(?:@([^/]+))?(?:/(.+))?", text)
        require(found is not None, "reference", text, LEGAL)
        assert found is not None
        owner, name, revision, file = found.groups()
        return cls(owner=owner, name=name, revision=revision, file=file)

    def at(self, commit: str) -> "Reference":
        """Returns the reference with `commit` as its revision."""
        return dataclasses.replace(self, revision=commit)


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A file of a repository in the local cache.

    Attributes:
      path: where the file is.
      commit: the commit of the repository that it is from, 40 hexadecimal digits.
    """

    path: Path
    commit: str


def is_reference(path: object) -> bool:
    """Returns whether `path` is a text that starts with `hf://`."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetch(reference: Reference, file: str, most_bytes: int) -> CachedFile:
    """Returns a file of a repository from the cache, after a download if it is not there.

    Without a network, the revision that was downloaded last is found in the cache. The cached
    file is compared with the digest that the hub gave for it. If it differs, it is deleted.

    Args:
      reference: the repository and its revision.
      file: path of the file in the repository.
      most_bytes: the largest legal size. A larger file is not downloaded.

    Raises:
      MissingFileError: the repository has no such file.
      HubError: the file cannot be downloaded, is too large, or is damaged.
    """
    with _one_line(reference, file):
        import huggingface_hub

        def download(dry_run: bool) -> object:
            return huggingface_hub.hf_hub_download(
                f"{reference.owner}/{reference.name}", file, revision=reference.revision,
                library_name="mnet_jax", dry_run=dry_run,
            )  # fmt: skip

        known = download(dry_run=True)
        assert isinstance(known, huggingface_hub.DryRunFileInfo)
        _require_size(known.file_size or 0, most_bytes, reference, file)
        path = Path(str(download(dry_run=False)))
        if path != Path(known.local_path):
            raise HubError(f"{reference}: has changed during the download, legal: another try")
        _require_size(path.stat().st_size, most_bytes, reference, file)
        _require_intact(path, reference, file)
        return CachedFile(path=path, commit=known.commit_hash)


def file_names(reference: Reference) -> list[str]:
    """Returns the paths of all files of a repository.

    Raises:
      HubError: the hub does not answer, or there is no such repository.
    """
    with _one_line(reference, "the list of its files"):
        import huggingface_hub

        return huggingface_hub.HfApi().list_repo_files(
            f"{reference.owner}/{reference.name}", revision=reference.revision
        )


def _require_size(size: int, most: int, reference: Reference, file: str) -> None:
    if size > most:
        raise HubError(f"{reference}: {file}: got {size} bytes, legal: {most} or fewer")


def _require_intact(path: Path, reference: Reference, file: str) -> None:
    """Raises HubError, and deletes the file, if it does not have the digest that the hub gave.

    `huggingface_hub` checks only the size. In its cache, `snapshots/<commit>/<file>` is a link to
    `blobs/<digest>`. The digest is a large file's SHA-256, and the SHA-1 that Git computes of a
    small one. Where there are no links, or a mirror gives another kind of digest, there is nothing
    to compare with.
    """
    if not path.is_symlink():
        return
    blob = path.parent / os.readlink(path)
    with path.open("rb") as content:
        if len(blob.name) == _SHA256_DIGITS:
            got = hashlib.file_digest(content, "sha256").hexdigest()
        elif len(blob.name) == _SHA1_DIGITS:
            header = f"blob {path.stat().st_size}\0".encode()
            got = hashlib.sha1(header + content.read()).hexdigest()
        else:
            return
    if got != blob.name:
        for each in (path.resolve(), blob, path):
            each.unlink(missing_ok=True)
        raise HubError(
            f"{reference}: {file} is damaged and was deleted from the cache: got digest {got}, "
            f"legal: {blob.name}"
        )


@contextlib.contextmanager
def _one_line(reference: Reference, file: str) -> Iterator[None]:
    """Turns the errors of `huggingface_hub` into HubErrors of one line."""
    try:
        yield
    except HubError:
        raise
    except ImportError as error:
        raise HubError(
            f"{reference}: needs huggingface_hub, legal: pip install mnet_jax[hub]"
        ) from error
    except Exception as error:  # those of the network have types of the HTTP library in use
        raise _explained(error, reference, file) from error


def _explained(error: Exception, reference: Reference, file: str) -> HubError:
    from huggingface_hub import errors

    at = reference.revision or "the default branch"
    not_cached = isinstance(error, errors.LocalEntryNotFoundError)
    if not_cached and isinstance(error.__cause__, errors.HfHubHTTPError):
        error, not_cached = error.__cause__, False
    if not_cached:
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        reason = one_line(error.__cause__ or error)
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached: {reason}"
        return HubError(f"{reference}: {file} is not in the cache, and {why}")
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{reference}: a gated repository, legal: {TOKEN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{reference}: no such repository, or a private one, legal: one that exists, or {TOKEN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{reference}: no such revision, legal: a branch, a tag or a commit")
    if isinstance(error, errors.EntryNotFoundError):
        return MissingFileError(f"{reference}: holds no {file} at {at}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        remedy = f", legal: {TOKEN}" if status in (401, 403) else ""
        return HubError(f"{reference}: {file}: the hub answers with HTTP status {status}{remedy}")
    return HubError(f"{reference}: {file}: {one_line(str(error) or type(error).__name__)}")
