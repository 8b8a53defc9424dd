"""A repository of the hub, by huggingface_hub: its metadata, and parts of its files. Downloads no weights.

What the hub's cache holds of the same revision is read there. huggingface_hub is imported here, and for its cache by
fetch.py and shelf.py.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jeito.engines.transformers import INSTALL
from jeito.errors import ModelError
from jeito.home import hub_endpoint, hub_is_offline
from jeito.preflight.source import FolderSource, Unreadable

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

# Seconds: for the next bytes to come, and for one whole read.
WAIT, PATIENCE = 10.0, 60.0
# A hub that ignores ranges sends all from the start; so much of it is read past.
MOST_SKIPPED = 1_000_000


class Unreachable(ModelError):
    """The hub does not answer, or may not be asked."""


class Refused(NamedTuple):
    """No file may be read: `kind` is absent, revision, gated or disabled."""

    kind: str
    why: str
    near: tuple[str, ...] = ()


@dataclass(slots=True)
class Repository:
    """A repository at one revision: a Source, and what the hub says of it."""

    name: str
    revision: str
    files: Mapping[str, int | None]
    digests: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    disabled: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    wait: float = WAIT
    patience: float = PATIENCE
    requests: int = 0
    received: int = 0
    refused: Refused | None = None

    def read(self, name: str, start: int, length: int) -> bytes:
        """Part of a file: from the cache, else by one ranged request (and its redirects)."""
        from huggingface_hub import try_to_load_from_cache

        size = self.files.get(name)
        if size is not None:
            length = min(length, size - start)
        if length <= 0:
            return b""
        kept = None if self.fresh else try_to_load_from_cache(self.name, name, revision=self.revision)
        if isinstance(kept, str):
            return FolderSource(Path(kept).parent, (Path(kept).name,)).read(Path(kept).name, start, length)
        found = self._fetch(name, start, length)
        if size is not None and len(found) < length:
            raise Unreadable(f"the hub sent {len(found):,} of {length:,} bytes of {name!r}")
        return found

    def _fetch(self, name: str, start: int, length: int) -> bytes:
        import httpx2
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

        if self.refused:
            raise Unreadable(f"{name!r} may not be read: {self.refused.why}")
        try:
            return self._ask(name, start, length)
        except GatedRepoError as error:
            self.refused = Refused("gated", f"the hub refuses its files ({error.response.status_code})")
            raise Unreadable(f"{name!r} may not be read: {self.refused.why}") from error
        except HfHubHTTPError as error:
            raise Unreadable(f"the hub answers {error.response.status_code} to {name!r}") from error
        except httpx2.TimeoutException as error:
            raise Unreadable(f"the hub sent nothing of {name!r} for {self.wait:g} s") from error
        except (httpx2.HTTPError, OSError) as error:
            raise Unreadable(f"the hub breaks off while it sends {name!r}: {error}") from error

    def _ask(self, name: str, start: int, length: int) -> bytes:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        late = time.monotonic() + self.patience
        found = bytearray()
        with ask(self.name, self.revision, name, f"{start}-{start + length - 1}", self.wait) as response:
            self.requests += 1 + len(response.history)
            hf_raise_for_status(response)
            skipped = start if response.status_code == 200 else 0
            if skipped > MOST_SKIPPED:
                raise Unreadable(f"the hub sends no parts of {name!r}, only all of it")
            for chunk in response.iter_raw(65_536):
                self.received += len(chunk)
                found += chunk
                if len(found) >= skipped + length:
                    break
                if time.monotonic() > late:
                    raise Unreadable(f"the hub took more than {self.patience:g} s to send {name!r}")
        return bytes(found[skipped : skipped + length])


@contextmanager
def ask(name: str, revision: str, file: str, part: str, wait: float) -> Iterator["Response"]:
    """One request for part of a file, `0-99` or `100-`; the hub's store is followed to, without the token."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(name, file, revision=revision, endpoint=hub_endpoint())
    headers = build_hf_headers(library_name="jeito") | {"Range": f"bytes={part}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=wait, follow_redirects=True) as response:
        yield response


def open_repository(
    name: str, revision: str | None, *, fresh: bool = False, wait: float = WAIT, patience: float = PATIENCE
) -> Repository:
    """What the hub says of a repository, in one request; raises ModelError, and Unreachable where the cache may help.

    One that is absent or refuses comes back without files, and with why.
    """
    try:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise ModelError(f"{name!r} is looked for on the hub by huggingface_hub", hint=INSTALL) from error
    if hub_is_offline():
        raise Unreachable("HF_HUB_OFFLINE is set: the hub is not asked", hint="unset HF_HUB_OFFLINE")
    api = HfApi(endpoint=hub_endpoint(), library_name="jeito")
    try:
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=wait)
    except RevisionNotFoundError:
        return _refusing(name, Refused("revision", f"it has no revision {revision!r}", _revisions(api, name)), 2)
    except GatedRepoError as error:
        return _refusing(name, Refused("gated", f"the hub refuses it ({error.response.status_code})"), 1)
    except RepositoryNotFoundError as error:
        why = f"the hub at {hub_endpoint()} has no {name!r} that this token may see ({error.response.status_code})"
        return _refusing(name, Refused("absent", why, _near(api, name)), 2)
    except HFValidationError as error:
        raise ModelError(f"{name!r} is no name of the hub's", hint="ORG/NAME, ORG/NAME#revision") from error
    except HfHubHTTPError as error:
        raise _answered(error.response.status_code, error.response.headers.get("Retry-After")) from error
    except OfflineModeIsEnabled as error:
        raise Unreachable("HF_HUB_OFFLINE is set: the hub is not asked", hint="unset HF_HUB_OFFLINE") from error
    except (httpx2.HTTPError, OSError) as error:
        raise Unreachable(f"the hub at {hub_endpoint()} does not answer: {error}", hint="HF_ENDPOINT") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"what {hub_endpoint()} says of {name!r} is no answer of the hub's", hint="HF_ENDPOINT"
        ) from error
    return Repository(
        name=info.id,
        revision=info.sha or revision or "main",
        files={sibling.rfilename: sibling.size for sibling in info.siblings or ()},
        digests={sibling.rfilename: digest for sibling in info.siblings or () if (digest := _digest(sibling))},
        gated=bool(info.gated),
        private=bool(info.private),
        disabled=bool(info.disabled),
        card=dict(vars(info.card_data)) if info.card_data else {},
        fresh=fresh,
        wait=wait,
        patience=patience,
        requests=1,
        refused=Refused("disabled", "the hub has disabled it") if info.disabled else None,
    )


def _digest(sibling: "RepoSibling") -> str | None:
    return sibling.lfs.sha256 if sibling.lfs else sibling.blob_id


def _refusing(name: str, refused: Refused, requests: int) -> Repository:
    return Repository(name, "", {}, gated=refused.kind == "gated", refused=refused, requests=requests)


def _answered(status: int, after: str | None) -> ModelError:
    if status == 429:
        return ModelError(
            "the hub has had too many requests", hint=f"wait {after or 'some'} seconds; HF_TOKEN raises the limit"
        )
    if status in (401, 403):
        return ModelError(f"the hub does not take the token ({status})", hint="hf auth login")
    return ModelError(f"the hub answers {status}", hint="try again later")


def _near(api: "HfApi", name: str) -> tuple[str, ...]:
    """Names of repositories like this one; a help that may fail."""
    from difflib import get_close_matches

    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = [model.id for model in api.list_models(search=name.rsplit("/", 1)[-1], limit=20)]
    except (HfHubHTTPError, httpx2.HTTPError, ValueError, KeyError):
        return ()
    return tuple(get_close_matches(name, found, n=3, cutoff=0.3))


def _revisions(api: "HfApi", name: str) -> tuple[str, ...]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        refs = api.list_repo_refs(name)
    except (HfHubHTTPError, httpx2.HTTPError, ValueError, KeyError):
        return ()
    return tuple(ref.name for ref in (*refs.branches, *refs.tags))[:20]
