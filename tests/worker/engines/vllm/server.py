"""An HTTP server that behaves as vLLM does with ids of tokens. It can do without, and cut an answer."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from shared.frames import DONE, frame
from tests.worker.engines.vllm.model import Model, Output, detokenized, merged, outputs, tokenized

CONTEXT = 4096


class VllmServer:
    """`bodies`: what was asked, with the path. `cut_after`: chunks of the next chat answers, after which the connection
    breaks. `other`: a model that completions use instead.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.other: Model | None = None
        self.returns_ids = True
        self.other_tokens = False
        self.has_completions = True
        self.has_priorities = True
        self.cut_after: list[int] = []
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.bodies if asked == path]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["VllmServer"]:
        application = web.Application()
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/completions", self._completion)
        application.router.add_post("/tokenize", self._tokenize)
        application.router.add_post("/detokenize", self._detokenize)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": CONTEXT}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.bodies.append(("/tokenize", body))
        return web.json_response({"tokens": tokenized(body["prompt"])})

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        return web.json_response({"prompt": "other" if self.other_tokens else detokenized(body["tokens"])})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, "/chat/completions")
        if refusal := self._refusal(body):
            return refusal
        messages = body["messages"]
        text = "".join(f"{message['role']}: {message['content'].strip()}\n" for message in messages)
        prompt = tokenized(text if body.get("continue_final_message") else f"{text}assistant: ")
        return await self._answer(request, body, prompt, self.model)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, "/completions")
        if not self.has_completions:
            return web.json_response({"detail": "Not Found"}, status=404)
        return self._refusal(body) or await self._answer(request, body, body["prompt"], self.other or self.model)

    async def _read(self, request: web.Request, path: str) -> dict[str, Any]:
        body = orjson.loads(await request.read())
        self.bodies.append((path, body))
        return body

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        if "return_token_ids" in body and not self.returns_ids:
            return _refused("extra_forbidden: return_token_ids")
        if (body.get("n") or 1) > 1 and body.get("temperature") == 0:
            return _refused(f"n must be 1 when using greedy sampling, got {body['n']}.")
        if body.get("priority") and not self.has_priorities:
            return _refused(f"Got priority {body['priority']} but Priority scheduling is not enabled.")
        return None

    async def _answer(
        self, request: web.Request, body: dict[str, Any], prompt: list[int], model: Model
    ) -> web.StreamResponse:
        if not body.get("stream"):
            return _whole(body, prompt, [*outputs(model, prompt, {**body, "stop": []})])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        is_chat, made = "messages" in body, 0
        cut_after = self.cut_after.pop(0) if self.cut_after and is_chat else -1
        ids = {"prompt_token_ids": prompt} if body.get("return_token_ids") else {}
        if is_chat:
            await response.write(frame(_chunk(body, {"delta": {"role": "assistant", "content": ""}}) | ids))
            ids = {}
        stop = body.get("stop") or []
        asked = {**body, "stop": [stop] if isinstance(stop, str) else stop}
        for number, output in enumerate(merged(outputs(model, prompt, asked), random.Random(len(prompt)))):
            if number == cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            made += len(output.ids)
            said = {"delta": {"content": output.text}} if is_chat else {"text": output.text, **ids}
            if body.get("return_token_ids"):
                said["token_ids"] = output.ids
            if output.finish_reason:
                said |= {"finish_reason": output.finish_reason, "stop_reason": output.stop_reason}
            await response.write(frame(_chunk(body, said)))
            ids = {}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": made, "total_tokens": len(prompt) + made}
        await response.write(frame({**_chunk(body, {}), "choices": [], "usage": usage}) + DONE)
        return response


def _chunk(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    kind = "chat.completion.chunk" if "messages" in body else "text_completion"
    said = {"index": 0, "logprobs": None, "finish_reason": None, **choice}
    return {"id": "c-1", "object": kind, "created": 1, "model": "m", "choices": [said]}


def _whole(body: dict[str, Any], prompt: list[int], made: list[Output]) -> web.Response:
    message = {"role": "assistant", "content": "".join(output.text for output in made)}
    choice = {"index": 0, "message": message, "finish_reason": made[-1].finish_reason}
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(made)}
    return web.json_response({**_chunk(body, {}), "object": "chat.completion", "choices": [choice], "usage": usage})


def _refused(message: str) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return web.json_response({"error": error}, status=400)
