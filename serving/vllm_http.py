"""vLLM's own OpenAI server over an engine that runs already, for requests to one member alone.

All protocol details (tools, log-probabilities, reasoning, streaming) are vLLM's. What is added is a guard: vLLM's key
does not cover all of its routes, so here one secret covers everything, and only the routes that are needed exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from argparse import Namespace
from collections.abc import Iterator

import uvicorn
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.lora.request import LoRARequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from mesh.engine import EngineError
from serving.config import VllmSpec
from serving.http_guard import Guard, UseAdapter
from serving.member_http import HttpAddress

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


class VllmHttp:
    """One server over one engine, in the event loop of that engine."""

    def __init__(self, llm: AsyncLLM, spec: VllmSpec, model: str, use_adapter: UseAdapter[LoRARequest]) -> None:
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
