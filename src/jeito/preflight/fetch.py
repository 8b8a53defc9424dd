"""Files of a repository, one after the other into the hub's cache, each as the hub has it; what broke off goes on.

The cache's layout, links and locks are huggingface_hub's. The bytes come through here, since its own downloads begin
anew after a kill. Knows nothing of which files a model needs.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jeito.errors import JeitoError
from jeito.home import file_digest, hub_endpoint
from jeito.preflight.find import Facts, is_safe
from jeito.preflight.hub import ask

# What the cache calls a blob by: its sha256, or git's sha1 for what is kept in git itself.
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
# Tries in a row that bring nothing before a download gives up; seconds before the second, doubled each time.
_TRIES, PAUSE = 5, 1.0
# Answers of a hub that may give another one soon.
_PASSING = (408, 429, 500, 502, 503, 504)


class PullError(JeitoError):
    """A download failed; what came of it stays where that is of use."""


class Cache:
    """A snapshot in the hub's cache that is to hold these files; `again` is the command that goes on with it."""

    def __init__(
        self,
        facts: Facts,
        files: tuple[str, ...],
        again: str,
        progress: Callable[[int, int], None],
        notify: Callable[[str], None],
        wait: float,
        pause: float,
    ) -> None:
        from huggingface_hub.constants import HF_HUB_CACHE

        self.facts, self.files, self.again = facts, files, again
        self.progress, self.notify, self.wait, self.pause = progress, notify, wait, pause
        self.revision = facts.revision or "main"
        self.folder = Path(HF_HUB_CACHE).expanduser().resolve()
        self.repository = self.folder / f"models--{facts.name.replace('/', '--')}"
        self.snapshot = self.repository / "snapshots" / self.revision
        self.total = sum(facts.files.get(file) or 0 for file in files)
        self.done = sum(map(self._held, files))
        self.downloaded = 0

    def fill(self, name: str) -> None:
        """Bring what is missing and check all; then let the revision's name mean this snapshot. Raises PullError."""
        import httpx2
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()
        self._check_room()
        self.progress(self.done, self.total)
        for file in self.files:
            try:
                if self.facts.place == "hub":
                    self._bring(file)
                else:
                    self._check(file)
            except (httpx2.HTTPError, OSError, ValueError) as error:
                why = str(error).partition("\n")[0]
                hint = f"df -h {self.folder}; ls -ld {self.folder}"
                raise PullError(f"{file!r} cannot be put into the hub's cache: {why}", hint=hint) from error
        # Only now: until all is here, what the name meant before stays usable.
        if self.facts.place == "hub" and name != self.revision and is_safe(name):
            ref = self.repository / "refs" / name
            ref.parent.mkdir(parents=True, exist_ok=True)
            partial = ref.with_name(f"{ref.name}.{os.getpid()}")
            partial.write_text(self.revision)
            partial.replace(ref)

    def _check_room(self) -> None:
        place = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        lacking, free = self.total - self.done, shutil.disk_usage(place).free
        if lacking > free:
            raise PullError(
                f"{lacking:,} bytes are still to come, and {str(place)!r} has {free:,} free",
                hint="jeito models shows what takes room, jeito rm frees it; HF_HOME=… is another place",
            )

    def _bring(self, file: str) -> None:
        from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        link, blob, size = self.snapshot / file, self._blob(file), self.facts.files.get(file)
        if blob and size is not None and size <= MAX_HTTP_DOWNLOAD_SIZE:
            lock = self.folder / ".locks" / self.repository.name / f"{blob.name}.lock"
            for place in (blob.parent, lock.parent):
                place.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                self._make(file, blob, size)
            self._link(file)
            return
        # A longer file comes by the hub's own protocol only, which huggingface_hub speaks.
        was_here = link.exists()
        self._link(file)
        if not was_here:
            self._count(link.stat().st_size)
        if blob is None:
            self.notify(f"the hub says no digest of {file!r}: only its length is known to be right")
        elif not _is_whole(link, blob.name):
            link.unlink()
            blob.unlink(missing_ok=True)
            raise self._wrong(file)

    def _link(self, file: str) -> None:
        """Let the snapshot hold a file whose blob is there; one whose blob is not comes first."""
        from huggingface_hub import hf_hub_download

        hf_hub_download(self.facts.name, file, revision=self.revision, endpoint=hub_endpoint(), etag_timeout=self.wait)

    def _check(self, file: str) -> None:
        """Without a hub to ask: a blob is called by its digest."""
        link = self.snapshot / file
        if not _is_whole(link, link.resolve().name):
            raise PullError(f"{file!r} is damaged in the hub's cache", hint=f"with the hub in reach: {self.again}")

    def _make(self, file: str, blob: Path, size: int) -> None:
        """Let the blob be what its digest says."""
        link = self.snapshot / file
        held = link if link.exists() else blob
        if held.exists():
            if _is_whole(held, blob.name):
                return
            self.notify(f"{file!r} is damaged in the hub's cache, and comes again")
            link.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            self.done -= size
        part = _part(blob)
        part.touch()
        self._fetch(file, part, size)
        part.replace(blob)
        if not _is_whole(blob, blob.name):
            blob.unlink()
            raise self._wrong(file)

    def _fetch(self, file: str, part: Path, size: int) -> None:
        """Go on from what is held until all is; a try that brings nothing is followed by a pause."""
        tries = 0
        while (held := part.stat().st_size) < size:
            why = self._receive(file, part, held, size)
            if part.stat().st_size > held:
                tries = 0
                continue
            tries += 1
            if tries == _TRIES:
                raise PullError(f"{file!r} breaks off at {held:,} of {size:,} bytes: {why}", hint=self.again)
            time.sleep(self.pause * 2 ** (tries - 1))

    def _receive(self, file: str, part: Path, held: int, size: int) -> str:
        """What one request brings of a file; says why no more came."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        asked = ask(self.facts.name, self.revision, file, f"{held}-", self.wait)
        try:
            with asked as response, part.open("r+b") as kept:
                hf_raise_for_status(response)
                if response.status_code == 200:  # a hub without ranges sends all of it
                    kept.truncate(0)
                    self.done -= held
                    held = 0
                kept.seek(held)
                for chunk in response.iter_raw():
                    came = kept.write(chunk[: size - held])
                    held += came
                    self._count(came)
                    if held == size:
                        break
            return "the hub sends no more"
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in _PASSING:
                return f"the hub answers {status}"
            hint = "hf auth login" if status in (401, 403) else f"jeito check {self.facts.name}"
            raise PullError(f"the hub answers {status} to {file!r}", hint=hint) from error
        except httpx2.TimeoutException:
            return f"nothing came for {self.wait:g} s"
        except httpx2.HTTPError as error:
            return str(error) or type(error).__name__

    def _wrong(self, file: str) -> PullError:
        return PullError(f"{file!r} came with another digest than the hub's and is thrown away", hint=self.again)

    def _count(self, came: int) -> None:
        self.done += came
        self.downloaded += came
        self.progress(self.done, self.total)

    def _blob(self, file: str) -> Path | None:
        """Where the cache keeps a file's bytes; none where nobody says its digest."""
        digest = self.facts.digests.get(file, "")
        return self.repository / "blobs" / digest if _DIGEST.fullmatch(digest) else None

    def _held(self, file: str) -> int:
        size, blob = self.facts.files.get(file) or 0, self._blob(file)
        if (self.snapshot / file).exists() or (blob and blob.exists()):
            return size
        part = blob and _part(blob)
        return min(part.stat().st_size, size) if part and part.exists() else 0


def _part(blob: Path) -> Path:
    """What came so far of a blob; earlier versions of huggingface_hub called it so too."""
    return blob.with_name(f"{blob.name}.incomplete")


def _is_whole(path: Path, digest: str) -> bool:
    """Has a file this digest, of one or the other kind? True where the word is no digest."""
    if len(digest) == 40:
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == digest
    return len(digest) != 64 or file_digest(path) == digest
