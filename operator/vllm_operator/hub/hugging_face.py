"""Facts of a model on the Hugging Face hub, or a mirror of it: its config and the headers of its weights, by ranged reads.

A 700 GB model costs about 200 KB for each of its files. URLs are huggingface_hub's; the transport is ours (httpx, as
for vLLM) and handed in, because huggingface_hub downloads to a disk cache and changes its HTTP library between versions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HFValidationError

from vllm_operator.hub.chat_template import LARGEST_TEMPLATE
from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.gguf import read_head
from vllm_operator.hub.headers import LENGTH_BYTES, Tensor, choose_files, header_length, parse_header, read_index
from vllm_operator.hub.read import Found, build_facts, choose_gguf, read_template_file, template_file

DEFAULT_ENDPOINT = "https://huggingface.co"
FIRST_READ = 200_000
"""Bytes of the first ranged read of a file: the whole header of most shards."""
LARGEST_JSON = 16 * 1024 * 1024
"""Bytes of an index or a header: DeepSeek V3's index, the largest known, has 9 MB. Any user may name an endpoint: what it sends must
not be more than the operator's memory."""
WORKERS = 4

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class HubFacts:
    """Facts, and the commit that they are of."""

    facts: ModelFacts
    commit: str | None
    """Commit that the revision names now: the key under which facts may be kept for ever."""


@dataclass(frozen=True)
class AdapterFacts:
    """What is known of a LoRA adapter."""

    rank: int
    """The highest of its modules' ranks."""
    commit: str | None = None


class HuggingFaceHub:
    """Reads facts from one endpoint with one token."""

    def __init__(self, client: httpx.Client, *, endpoint: str | None = None, token: str | None = None) -> None:
        """`client`: follows redirects, has timeouts. `token`: None for none; the environment's is never taken by itself."""
        self._client = client
        self._endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self._token = token
        self._headers = {"User-Agent": "vllm-operator", **({"Authorization": f"Bearer {token}"} if token else {})}

    def read(self, repository: str, *, revision: str | None = None) -> HubFacts:
        """Facts of a repository. Raises a HubError; one whose `retry` is true may pass by itself."""
        return self._telling_apart(repository, revision, lambda: self._read(repository, revision or "main"))

    def read_adapter(self, repository: str) -> AdapterFacts:
        """Facts of a LoRA adapter's default branch. Raises a HubError."""
        config = self._telling_apart(repository, None, lambda: self._file(repository, "main", "adapter_config.json"))
        patterns = config.get("rank_pattern") or {}
        ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
        known = [rank for rank in ranks if isinstance(rank, int) and rank > 0]
        if not known:
            raise InvalidModelError(f"adapter_config.json of {repository} has no rank (r)")
        return AdapterFacts(max(known))

    def _read(self, repository: str, revision: str) -> HubFacts:
        # without blobs the listing has no sizes; with them it is still one small answer
        url = f"{self._endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
        info = self._json_answer(self._get(url), url)
        files: dict[str, int | None] = {}
        for entry in info.get("siblings") or []:
            size = entry.get("size")
            files[str(entry.get("rfilename"))] = int(size) if isinstance(size, int) else None
        commit = info.get("sha") if isinstance(info.get("sha"), str) else None
        at = commit or revision

        def optional(name: str) -> dict[str, Any] | None:
            return self._file(repository, at, name) if name in files else None

        config = optional("config.json")
        found = Found(
            where=repository,
            files=files,
            config=config,
            params=optional("params.json") if config is None else None,
            gguf=self._gguf(repository, at, files) if not {"config.json", "params.json"} & files.keys() else None,
            tokenizer=optional("tokenizer_config.json"),
            chat_template=self._template(repository, at, files),
            tensors=self._tensors(repository, at, files),
            pipeline_tag=info.get("pipeline_tag"),
        )
        return HubFacts(build_facts(found), commit)

    def _gguf(self, repository: str, revision: str, files: Mapping[str, int | None]) -> Mapping[str, Any] | None:
        """Metadata of the GGUF file, or None without one."""
        names = choose_gguf(files)
        return read_head(lambda size: self._range(self._url(repository, revision, names[0]), size)) if names else None

    def _template(self, repository: str, revision: str, files: Mapping[str, int | None]) -> str | None:
        name = template_file(files)
        if name is None:
            return None
        return read_template_file(
            name, self._range(self._url(repository, revision, name), LARGEST_TEMPLATE, ranged=False)
        )

    def _tensors(self, repository: str, revision: str, files: dict[str, int | None]) -> Sequence[Tensor]:
        chosen = [name for name in choose_files(files) if name.endswith(".safetensors")]
        if "model.safetensors.index.json" in files:
            listed, _ = read_index(self._file(repository, revision, "model.safetensors.index.json"))
            chosen = [name for name in listed if name in files] or chosen
        with ThreadPoolExecutor(min(WORKERS, len(chosen) or 1)) as pool:
            return [
                tensor
                for part in pool.map(lambda name: self._header(repository, revision, name), chosen)
                for tensor in part
            ]

    def _header(self, repository: str, revision: str, name: str) -> list[Tensor]:
        url = self._url(repository, revision, name)
        data = self._range(url, FIRST_READ)
        length = header_length(data)
        if length > LARGEST_JSON:
            raise InvalidModelError(
                f"the header of {repository}/{name} has {length} bytes; more than {LARGEST_JSON} are not read"
            )
        if len(data) < LENGTH_BYTES + length:
            data = self._range(url, LENGTH_BYTES + length)
        if len(data) < LENGTH_BYTES + length:
            raise HubUnavailableError(f"{self._endpoint} broke off in the header of {repository}/{name}")
        return parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length])

    def _file(self, repository: str, revision: str, name: str) -> dict[str, Any]:
        url = self._url(repository, revision, name)
        return self._json_answer(self._range(url, LARGEST_JSON, ranged=False), url)

    def _url(self, repository: str, revision: str, name: str) -> str:
        return hf_hub_url(repository, name, revision=revision, endpoint=self._endpoint)

    def _get(self, url: str) -> bytes:
        return self._range(url, LARGEST_JSON, ranged=False)

    def _range(self, url: str, length: int, *, ranged: bool = True) -> bytes:
        """The first `length` bytes. A server that does not know ranges sends all; no more than `length` is read."""
        headers = {**self._headers, "Range": f"bytes=0-{length - 1}"} if ranged else self._headers
        with self._client.stream("GET", url, headers=headers) as answer:
            if not answer.is_success:
                raise _Answer(answer.status_code, answer.headers.get("X-Error-Code"))
            result = bytearray()
            for chunk in answer.iter_bytes():
                result += chunk
                if len(result) >= length:
                    break
            return bytes(result[:length])

    def _json_answer(self, data: bytes, url: str) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except ValueError as error:
            if url.startswith(f"{self._endpoint}/api/"):
                raise HubUnavailableError(
                    f"{self._endpoint} does not answer as a Hugging Face hub: {str(error)[:200]}"
                ) from error
            raise InvalidModelError(f"{url} is no JSON: {str(error)[:200]}") from error
        if not isinstance(value, dict):
            raise InvalidModelError(f"{url} is no JSON object")
        return value

    def _telling_apart(self, repository: str, revision: str | None, read: Callable[[], _Result]) -> _Result:
        """Run a read; what goes wrong becomes the HubError that says what to do."""
        try:
            return read()
        except _Answer as answer:
            raise self._explained(answer, repository, revision) from None
        except HFValidationError as error:
            raise ModelNotFoundError(f"{repository!r} is no Hugging Face id: {' '.join(str(error).split())}") from error
        except httpx.HTTPError as error:
            raise HubUnavailableError(
                f"cannot reach {self._endpoint}: {type(error).__name__} {str(error)[:200]}"
            ) from error

    def _explained(self, answer: "_Answer", repository: str, revision: str | None) -> HubError:
        """The hub says what is wrong in X-Error-Code, since its status codes tell little (huggingface_hub: hf_raise_for_status)."""
        page = f"{self._endpoint}/{repository}"
        match answer.code, answer.status:
            case "GatedRepo", _:
                hint = "the token has no access" if self._token else "it is gated"
                return GatedModelError(
                    f"access denied to {repository} ({hint}): accept the licence at {page}, and set hub.tokenSecretRef to a "
                    "token of that account"
                )
            case "RevisionNotFound", _:
                return ModelNotFoundError(f"{repository} has no revision {revision!r}")
            case "EntryNotFound", _:
                return HubUnavailableError(f"{repository} changed while it was read: a listed file is gone")
            case ("RepoNotFound", _) | (None, 404):
                # the hub answers 401 for what is private as for what does not exist, unless a token shows that one may know
                hint = "" if self._token else "; if it is private, set hub.tokenSecretRef"
                return ModelNotFoundError(f"no such model: {repository} on {self._endpoint}{hint}")
            case _, 401 | 403:
                return GatedModelError(
                    f"access denied to {repository}: {self._endpoint} answers {answer.status}; check the token of "
                    f"hub.tokenSecretRef, and accept the licence at {page} if there is one"
                )
            case _:
                return HubUnavailableError(f"{self._endpoint} answers {answer.status} for {repository}")


class _Answer(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str | None) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
