"""What clients send and get: the part of OpenAI's chat API that a mesh can honour, and what the mesh adds to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memory.types import Record
from mesh.equivalence import AnswerKind
from mesh.text import Text
from mesh.types import Diagnosis

MESH = "mesh"
MESH_PREFIX = "mesh:"
MAX_MODEL_CHARS = 200
MAX_MESSAGES = 2048
MAX_STOPS = 16
MAX_TOKENS = 1_000_000
MAX_SEED = 2**63


class Sent(BaseModel):
    """What a client sends: nothing unknown, and no number where a text belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Sent):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


Content = Text | list[TextPart]


class ChatMessage(Sent):
    """One turn of the caller's conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @property
    def text(self) -> str:
        """All of its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Sent):
    """How a stream is to be."""

    include_usage: bool = Field(default=False, description="one more chunk at the end, with what all calls took")


class NamedSchema(Sent):
    """A JSON schema the answer has to follow."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON Schema; every answer is checked against it")
    strict: bool | None = Field(default=None, description="answers are always checked, whatever it says")


class TextFormat(Sent):
    """Words, in no form."""

    type: Literal["text"]


class JsonFormat(Sent):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Sent):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class MeshOptions(Sent):
    """What only a mesh can be told."""

    progress: bool = Field(
        default=False, description="in a stream: tell of every call as it ends, as `reasoning_content`"
    )
    answer: AnswerKind = Field(
        default="free", description="what the answer is: prose, one line of text, a number or a formula"
    )
    task_type: str = Field(
        default="general", pattern=r"^[\w .@+:-]{1,64}$", description="kind of task, for measured weights and memory"
    )


class ChatRequest(Sent):
    """The body of `POST /v1/chat/completions` for the mesh."""

    model: str = Field(max_length=MAX_MODEL_CHARS, description="'mesh', 'mesh:PROTOCOL', or a member")
    messages: list[ChatMessage] = Field(
        min_length=1, max_length=MAX_MESSAGES, description="the conversation; it ends with a message of the user"
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=2.0, description="null: as the protocol is configured")
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="of each proposal; null: as the protocol is configured"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS, description="another name for it")
    stop: Annotated[str, Field(min_length=1, max_length=256)] | Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=MAX_STOPS)
    ] | None = None  # fmt: skip
    seed: int | None = Field(
        default=None, ge=-MAX_SEED, lt=MAX_SEED, description="the same seed draws the same; null: any, told in `mesh`"
    )
    n: Literal[1] | None = Field(default=None, description="a mesh gives one answer")
    response_format: ResponseFormat | None = None
    presence_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = Field(default=None, description="only 0")
    frequency_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = Field(default=None, description="only 0")
    logprobs: Literal[False] | None = Field(default=None, description="a mesh has none; ask a member")
    user: str | None = Field(default=None, max_length=256, description="taken, and used for nothing")
    mesh: MeshOptions = MeshOptions()


class Missing(Record):
    """A member that gave nothing where it was asked."""

    member: str
    phase: str
    round: int
    kind: str
    message: str


class SupportOf(Record):
    """A distinct answer and the weight behind it."""

    answer: str
    weight: float
    members: tuple[str, ...] = ()


class PhaseUsage(Record):
    """What the calls of one phase took."""

    phase: str
    prompt_tokens: int
    output_tokens: int
    num_calls: int
    engine_seconds: float


class MeshField(Record):
    """What a mesh says beside its answer."""

    deliberation: str = Field(description="id of the trace, for GET /v1/deliberations/{id} and POST /v1/outcomes")
    roster: str = Field(description="id of the seats that decided")
    channel: str = Field(description="where the seats were published")
    protocol: str
    seed: int = Field(description="sent again, it draws the same")
    answer: str | None = Field(description="null: every member abstained or failed")
    method: str = Field(description="the rule that decided")
    support: tuple[SupportOf, ...] = Field(description="distinct answers and their shares of all weight, best first")
    dissent: tuple[str, ...] = Field(description="members whose own last answer differs")
    confidence: float
    calibrated: bool = Field(description="true: `confidence` was fitted to judged outcomes")
    tied: bool
    diagnosis: Diagnosis | None
    mind_changes: int = Field(description="revisions that changed a member's answer")
    missing: tuple[Missing, ...] = Field(description="who failed, where and why")
    adapters: dict[str, str | None] = Field(description="by member: hash of the adapter it spoke with; null: the base")
    usage: tuple[PhaseUsage, ...] = Field(description="what the calls took, by phase")
    engine_seconds: float
    cost: float = Field(description="by the engines' prices per hour; 0 where none is set")
    seconds: float = Field(description="wall seconds of the deliberation")


class TokenUsage(Record):
    """Tokens of all internal calls together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(Record):
    """What is said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Record):
    """The answer; there is one."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Record):
    """The answer of the mesh as OpenAI's clients read it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: tuple[Choice, ...]
    usage: TokenUsage
    mesh: MeshField


class Model(Record):
    """A name that may stand in `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when the door was opened, in seconds since 1970")
    owned_by: str = Field(description="'evomesh' for the mesh, the model's family for a member")
    kind: Literal["mesh", "member", "specialist"]
    protocol: str | None = Field(default=None, description="of a mesh")
    adapter: str | None = Field(default=None, description="of a specialist: hash of its adapter")


class ModelList(Record):
    """Everything that may stand in `model`."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


class ErrorDetail(Record):
    """What was wrong."""

    message: str
    type: str
    param: str | None = Field(description="the field it is about")
    code: str | None


class ErrorBody(Record):
    """Every refusal."""

    error: ErrorDetail
