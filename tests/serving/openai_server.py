"""A small OpenAI-compatible server, written by hand: it answers over real HTTP with a scripted engine's words."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from mesh.engine import EngineError
from mesh.types import JsonSchema, Member, Message, Part, Sampling
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.scripted_prompt import read_prompt

MODEL = "tiny"
MEMBER = Member(name="served", engine="behind", family="scripted")


@dataclass
class Fault:
    """One answer that goes wrong, given instead of a completion."""

    status: int
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that hang up: some tests make them."""

    daemon_threads = True
    request_queue_size = 64  # the default of 5 makes a client that opens more at once wait a second

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@dataclass
class OpenAiServer:
    """Serves `/v1/chat/completions` and `/v1/completions` on a free port of the loopback while its block runs."""

    skill: float = 0.5
    key: str | None = None
    gives_logprobs: bool = True
    refuses_logprobs: bool = False
    honours_n: bool = True
    keeps_forms: bool = True
    refuses_forms: bool = False
    gives_usage: bool = True
    delay_s: float = 0.0
    says: str | None = None
    faults: list[Fault] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> OpenAiServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or every reply waits 40 ms for an acknowledgement

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test output clean."""

        self._http = QuietServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self._engine = ScriptedEngine(ScriptedSpec(name="behind", family="scripted", skill=self.skill))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else None
        try:
            time.sleep(self.delay_s)
            answer = fault or self._answer(request.path, request.headers.get("Authorization"), body)
        finally:
            with self._lock:
                self._at_once -= 1
        data = answer.body.encode()
        request.send_response(answer.status)
        for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, path: str, authorization: str | None, body: dict[str, Any]) -> Fault:
        if self.key is not None and authorization != f"Bearer {self.key}":
            return Fault(401, json.dumps({"error": f"bad key in {authorization!r}"}))
        if path not in ("/v1/chat/completions", "/v1/completions") or body["model"] != MODEL:
            return Fault(404, json.dumps({"error": f"nothing at {path} for model {body['model']}"}))
        if self.refuses_logprobs and "logprobs" in body:
            return Fault(400, json.dumps({"error": "unknown field: logprobs"}))
        if self.refuses_forms and "response_format" in body:
            return Fault(400, json.dumps({"error": "unknown field: response_format"}))
        turns = body.get("messages", [{"role": "user", "content": body.get("prompt")}])
        messages = [Message(role=turn["role"], parts=(Part(text=turn["content"]),)) for turn in turns]
        try:
            return Fault(200, json.dumps(asyncio.run(self._reply("chat" in path, body, messages))))
        except EngineError as error:
            return Fault(400, json.dumps({"error": str(error)}))

    async def _reply(self, chat: bool, body: dict[str, Any], messages: list[Message]) -> dict[str, Any]:
        sampling = Sampling(
            temperature=body["temperature"],
            top_p=body["top_p"],
            max_tokens=body["max_tokens"],
            stop=tuple(body.get("stop", ())),
            num_samples=body["n"] if self.honours_n else 1,
            seed=body["seed"],
            structure=self._structure(body),
        )
        completions, prompt_tokens = await self._engine.complete(MEMBER, messages, sampling)
        labels = [label for label, _ in read_prompt(messages).options]
        choices: list[dict[str, Any]] = []
        for index, completion in enumerate(completions):
            text = completion.text if self.says is None else self.says
            choice: dict[str, Any] = {"index": index, "finish_reason": completion.finish_reason}
            choices.append(choice | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text}))
        if self.gives_logprobs and "logprobs" in body and labels:
            weights = await self._engine.choose(MEMBER, messages, labels)
            # A leading blank, as most tokenizers have it, and a likelier token that is no label at all.
            top = {" The": math.log(0.5)} | {
                f" {label}": math.log(weight / 2) for label, weight in zip(labels, weights, strict=True)
            }
            choices[0]["logprobs"] = _logprobs(chat, top)
        reply: dict[str, Any] = {"choices": choices}
        if self.gives_usage:
            output_tokens = sum(completion.output_tokens for completion in completions)
            reply["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
        return reply

    def _structure(self, body: dict[str, Any]) -> JsonSchema | None:
        if not self.keeps_forms or "response_format" not in body:
            return None
        assert body["response_format"]["type"] == "json_schema"
        return JsonSchema(json_schema=json.dumps(body["response_format"]["json_schema"]["schema"]))


def _logprobs(chat: bool, top: dict[str, float]) -> dict[str, Any]:
    if not chat:
        return {"tokens": [next(iter(top))], "top_logprobs": [top]}
    entries = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    return {"content": [{"token": entries[0]["token"], "top_logprobs": entries}]}
