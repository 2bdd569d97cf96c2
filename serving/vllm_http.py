"""vLLM's own OpenAI server over an engine that runs already, for requests to one member alone.

All protocol details (tools, log-probabilities, reasoning, streaming) are vLLM's. What is added is a guard: vLLM's key
does not cover all of its routes, so here one secret covers everything, and only the routes that are needed exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.lora.request import LoRARequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from mesh.engine import EngineError
from serving.config import VllmSpec
from serving.member_http import ADAPTER_HEADER, CHAT_PATH, HttpAddress

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UseAdapter = Callable[[str], AbstractAsyncContextManager[LoRARequest]]
"""Keeps the adapter of a hash in the engine while the context is open; raises EngineError if it is not known."""

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


class VllmHttp:
    """One server over one engine, in the event loop of that engine."""

    def __init__(self, llm: AsyncLLM, spec: VllmSpec, model: str, use_adapter: UseAdapter) -> None:
        """`model`: directory of the base weights, where vLLM finds tokenizer and chat template."""
        self._llm = llm
        self._spec = spec
        self._model = model
        self._use_adapter = use_adapter
        self._secret = secrets.token_urlsafe(32)
        self._lock = asyncio.Lock()
        self._address: HttpAddress | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def address(self, host: str) -> HttpAddress:
        """Where it listens; starts it at the first call. Raises EngineError if it does not come up."""
        async with self._lock:
            if self._address is None:
                self._address = await self._start(host)
            return self._address

    async def close(self) -> None:
        """Ends it; requests under way are cut off after five seconds. A second call does nothing."""
        server, task, self._server, self._task, self._address = self._server, self._task, None, None, None
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S + 1.0)
            task.cancel()

    async def _start(self, host: str) -> HttpAddress:
        tasks = await self._llm.get_supported_tasks()
        arguments = server_arguments(self._spec, self._model)
        app = build_app(arguments, tasks, self._llm.model_config)
        await init_app_state(self._llm, app.state, arguments, tasks)
        guard = Guard(app, self._secret, app.state.openai_serving_models.lora_requests, self._use_adapter)
        config = uvicorn.Config(
            guard,
            # Log lines would hold what clients ask.
            log_config=None,
            access_log=False,
            # vLLM's own start and stop would freeze this process's garbage collector and take the app's state away.
            lifespan="off",
            timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
            h11_max_incomplete_event_size=arguments.h11_max_incomplete_event_size,
        )
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listener]))
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not self._server.started:
            if self._task.done() or asyncio.get_running_loop().time() > deadline:
                raise EngineError(f"engine {self._spec.name!r}: its HTTP server did not start on {host}; see its log")
            await asyncio.sleep(0.01)
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        return HttpAddress(url=f"http://{shown}:{port}", secret=self._secret, model=self._spec.name)


class Guard:
    """Lets in who knows the secret, to the one route there is, with the request's adapter in the engine meanwhile."""

    def __init__(
        self, app: App, secret: str, lora_requests: MutableMapping[str, LoRARequest], use_adapter: UseAdapter
    ) -> None:
        """`lora_requests`: vLLM's table of adapters by model name; it holds those that are in use."""
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self._table = lora_requests
        self._use_adapter = use_adapter
        self._users: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            await _answer(send, 401, "this server belongs to the mesh; ask the door instead")
        elif (scope["method"], scope["path"]) != ("POST", CHAT_PATH):
            await _answer(send, 404, f"there is nothing here but POST {CHAT_PATH}")
        elif adapter := headers.get(ADAPTER_HEADER.encode(), b"").decode("ascii", "replace"):
            await self._with_adapter(adapter, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _with_adapter(self, adapter: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                request = await stack.enter_async_context(self._use_adapter(adapter))
            except EngineError as error:
                await _answer(send, 503, str(error))
                return
            with self._named(adapter, request):
                await self._app(scope, receive, send)

    @contextlib.contextmanager
    def _named(self, adapter: str, request: LoRARequest) -> Iterator[None]:
        """vLLM knows the adapter under its hash while somebody uses it."""
        self._users[adapter] += 1
        self._table[adapter] = request
        try:
            yield
        finally:
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter], self._table[adapter]


def server_arguments(spec: VllmSpec, model: str) -> Namespace:
    """What `vllm serve` would be told on its command line."""
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    arguments.model = model
    arguments.served_model_name = [spec.name]
    arguments.disable_log_stats = True
    arguments.enable_log_requests = False
    arguments.enable_auto_tool_choice = spec.tool_parser is not None
    arguments.tool_call_parser = spec.tool_parser
    # A small model asked for a tool by name would else put anything at all into its arguments.
    arguments.tool_strict_level = "parameter"
    if spec.reasoning_parser is not None:
        arguments.structured_outputs_config.reasoning_parser = spec.reasoning_parser
    # Templates and media settings of a request would be code and files of a caller's choice.
    arguments.trust_request_chat_template = False
    arguments.trust_request_mm_kwargs = False
    validate_parsed_serve_args(arguments)
    return arguments


class _Server(uvicorn.Server):
    """A server that leaves the signals of its process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _answer(send: Send, status: int, message: str) -> None:
    error = {"message": message, "type": "server_error", "param": None, "code": "engine"}
    body = json.dumps({"error": error}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
