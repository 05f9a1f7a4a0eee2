"""xllamacpp behind a typed face: the only file that touches the native library."""

from __future__ import annotations

import http.client
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import xllamacpp  # pyright: ignore[reportMissingTypeStubs]

from shared.errors import EngineError

_native = cast(Any, xllamacpp)

# A step reads at most this many prompt tokens; between two steps a request can be stopped.
PROMPT_STEP = 512
HTTP_TIMEOUT = 30


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """`context_length` is per slot; llama.cpp lowers it to what the model was trained for."""

    path: Path
    model_id: str
    slots: int
    context_length: int
    threads: int | None = None
    gpu_layers: int | None = None


class LlamaServer:
    """One loaded model. Every call blocks its thread; `chat` runs in a thread per slot.

    llama.cpp opens a local HTTP address of its own. It is locked with a random key, and used for what the
    native interface lacks: counting tokens and telling the context's size.
    """

    def __init__(self, options: LlamaOptions) -> None:
        if not options.path.is_file():
            raise EngineError(f"There is no model file {options.path}.")
        self._key = secrets.token_hex(16)
        try:
            self._server = _native.Server(self._params(options))
        except Exception as error:
            raise EngineError(
                f"llama.cpp cannot load {options.path}: not a whole GGUF model, or not enough memory for it."
            ) from error

    def chat(self, body: bytes, on_chunk: Callable[[bytes], bool]) -> None:
        """Generate; `on_chunk` gets each JSON text and stops the work by returning True.

        An error comes as a chunk with `error`, or as an exception where llama.cpp could not read the request.
        """
        self._server.handle_chat_completions(body, on_chunk)

    def model(self) -> dict[str, Any]:
        """As llama.cpp's own list of models has it."""
        return self._ask("GET", "/v1/models")["data"][0]

    def count_tokens(self, text: str) -> int:
        # Alone, a text may get a space put before it; after a line break it does not.
        return self._tokenized_length("\n" + text) - self._tokenized_length("\n")

    def _tokenized_length(self, text: str) -> int:
        return len(self._ask("POST", "/tokenize", {"content": text, "add_special": False})["tokens"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        address = urlsplit(str(self._server.listening_address)).netloc
        connection = http.client.HTTPConnection(address, timeout=HTTP_TIMEOUT)
        try:
            connection.request(method, path, orjson.dumps(body), {"Authorization": f"Bearer {self._key}"})
            return orjson.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise EngineError(f"llama.cpp did not answer {path}: {error}.") from error
        finally:
            connection.close()

    def _params(self, options: LlamaOptions) -> Any:
        params = _native.CommonParams()
        params.model.path = str(options.path)
        params.model_alias = {options.model_id}
        params.n_parallel = options.slots
        params.n_ctx = options.slots * options.context_length
        params.n_batch = params.n_ubatch = PROMPT_STEP
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads or _spare_cores()
        params.n_gpu_layers = -1 if options.gpu_layers is None else options.gpu_layers
        params.use_jinja = True
        params.api_keys = [self._key]
        params.ui = False
        params.n_threads_http = 1
        # Up to 8 GiB of saved prompts by default, which an operator would take for a leak.
        params.cache_ram_mib = 0
        # Silence: llama.cpp calls every refused request an error, and we report those ourselves.
        params.verbosity = 0
        return params


def _spare_cores() -> int:
    """All but one: llama.cpp's threads wait for each other in a spin, and one that lost its core stops them all."""
    return max(1, len(os.sched_getaffinity(0)) - 1 if sys.platform == "linux" else (os.cpu_count() or 2) - 1)
