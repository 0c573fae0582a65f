"""Models on the Hugging Face Hub: their addresses, how they are fetched, what the Hub's refusals mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.errors import HeadstartError, HubError, ModelError, SettingsError

__all__ = ["HUB", "fetch_model", "is_address", "parts_of", "talking"]

HUB = "hf-hub:"
"""What the address of a model on the Hub begins with."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_FILES = ("config.json", "model.safetensors", "head.safetensors", "reject.safetensors", "README.md")
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may {do}."


def is_address(path: object) -> bool:
    """Whether this names a model on the Hub: hf-hub:OWNER/NAME, with @REVISION where one is meant."""
    return str(path).startswith((HUB, "hf_hub:"))


def parts_of(address: object) -> tuple[str, str | None]:
    """OWNER/NAME and the revision (None: the main one) of [hf-hub:]OWNER/NAME[@REVISION]. Raises SettingsError."""
    name, _, revision = str(address).removeprefix(HUB).removeprefix("hf_hub:").replace("\\", "/").partition("@")
    if not _NAME.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name or name.endswith((".git", ".", "-")):
        raise SettingsError(
            f"{name!r} is no name of a repository on the Hub",
            remedy="Give OWNER/NAME of letters, digits, -, _ and ., for example my-lab/ants-and-bees.",
        )
    return name, revision or None


def fetch_model(address: object) -> Path:
    """The folder of a model on the Hub, cached or fetched into the Hub's own cache.

    What is cached is taken without asking the Hub; all files are of one commit. Raises HubError when the Hub cannot be
    reached or refuses, and ModelError when no headstart model is there.
    """
    name, revision = parts_of(address)
    record = _fetch(name, "headstart.json", revision)
    if record is None:
        raise ModelError(
            "no headstart model in this repository",
            where=f"{HUB}{name}",
            remedy=f"For another network use: headstart fit DATA --source timm:{HUB}{name}",
        )
    wanted: object = None
    with suppress(OSError, ValueError, AttributeError):  # whoever opens the folder says what is wrong with the record
        wanted = json.loads(record.read_bytes()).get("files")
    for file in _FILES:
        if isinstance(wanted, dict) and file in wanted:
            _fetch(name, file, record.parent.name)
    return record.parent


def _fetch(name: str, file: str, revision: str | None) -> Path | None:
    """One file of a repository; None where the repository has none of that name."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    with talking(name, do="read"):
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except LocalEntryNotFoundError as error:
            raise ConnectionError(str(error)) from error
        except EntryNotFoundError:
            return None


@contextmanager
def talking(name: str, *, do: str) -> Iterator[None]:
    """Inside the block the Hub is spoken to about a repository; what goes wrong there becomes one HubError.

    `do` is what the token must allow: "read" or "write".
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from headstart.sources._download import knock

    if constants.HF_HUB_OFFLINE:
        raise HubError(
            "the Hub is switched off by HF_HUB_OFFLINE", where=name, remedy="Unset it, or work with a local folder."
        )
    try:
        knock(constants.ENDPOINT)
        yield
    except (HeadstartError, AssertionError, AttributeError, LookupError, TypeError):  # the last ones are our mistakes
        raise
    except LocalTokenNotFoundError as error:
        raise HubError("the Hub asks who you are", where=name, remedy=_LOG_IN.format(do=do)) from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        raise _refusal(code, error, name, do=do) from error
    except ValueError as error:  # front matter that the Hub does not take, an answer that is no answer
        raise HubError(
            f"the Hub refuses: {_first_line(error)}", where=name, remedy="Try again later: nothing was changed."
        ) from error
    except Exception as error:
        raise HubError(
            f"the Hub at {constants.ENDPOINT} cannot be reached ({_first_line(error)})",
            where=name,
            remedy="Check the network and HF_ENDPOINT, then try again: nothing was changed.",
        ) from error


def _refusal(code: int, error: Exception, name: str, *, do: str) -> HubError:
    """What an answer of the Hub other than yes means."""
    if code == 401:
        what = "there is no such repository, or your token may not see it" if do == "read" else "the token is refused"
        return HubError(what, where=name, remedy=f"Check the name. {_LOG_IN.format(do=do)}")
    if code == 403:
        return HubError(
            f"the token may not {do} here",
            where=name,
            remedy=f"Give a name of your own, or a token that may {do} there: https://huggingface.co/settings/tokens",
        )
    if code == 404:
        return HubError("there is no such repository or revision", where=name, remedy="Check the name.")
    if code == 409:
        return HubError("the name is taken by somebody else", where=name, remedy="Choose another name.")
    return HubError(
        f"the Hub refuses with {code}: {_first_line(error)}", where=name, remedy="Try again later: nothing was changed."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
