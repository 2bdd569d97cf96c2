"""What makes an adapter admissible: a plain LoRA for exactly this base model, in a safe file, with finite values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory.ledger import read_json
from memory.types import Record, content_hash
from serving.safetensors_header import HeaderError, TensorInfo, read_header

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
README_FILE = "README.md"
PREFIX = "base_model.model."
MAX_TENSORS = 100_000
MAX_HEADER_BYTES = 16 * 2**20
MAX_REASONS = 20
MAX_VALUE = 65504.0
"""Largest number that float16 holds: more is infinity in an engine that computes so. Trained weights stay below 10."""
_CHUNK_BYTES = 1 << 24
# vLLM refuses adapters on these, and PEFT merges them wrongly.
FORBIDDEN_LAYERS = ("lm_head", "embed_tokens")
# Settings that make something else than a plain LoRA of them, with the only value that is admitted (or its absence).
PLAIN = {
    **{"bias": "none", "modules_to_save": None, "use_dora": False, "use_rslora": False, "lora_bias": False},
    **{"fan_in_fan_out": False, "layer_replication": None, "trainable_token_indices": None, "target_parameters": None},
    **{"use_qalora": False, "use_bdlora": None, "alora_invocation_tokens": None, "auto_mapping": None},
    **{"exclude_modules": None, "layers_to_transform": None, "arrow_config": None, "velora_config": None},
    **{"monteclora_config": None, "kasa_config": None, "megatron_config": None, "lora_ga_config": None},
}
# What PEFT writes beside that and what changes nothing for a plain LoRA that is already trained.
WITHOUT_EFFECT = frozenset(
    {"peft_version", "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "rank_pattern"}
    | {"alpha_pattern", "layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config"}
    | {"qalora_group_size", "ensure_weight_tying", "runtime_config"}
)
SAFE_INITS = (True, False, "gaussian", "orthogonal", "eva")


class BaseModelShape(Record):
    """What an adapter must fit: the weight matrices of a base model by module name, each (out, in)."""

    name: str = Field(description="for people: name of the model directory")
    fingerprint: str = Field(description="hash over names, shapes and content hashes of the weights")
    matrices: dict[str, tuple[int, int]]

    @classmethod
    def from_directory(cls, directory: Path) -> BaseModelShape:
        """Reads the headers of every safetensors file in a model directory; no tensor is loaded.

        The fingerprint takes the content hashes from the store's manifest, if there is one, so that two models of
        one shape are told apart; without a manifest it can only take names, shapes and the first and last MiB.

        Raises:
            HeaderError: a file is malformed. FileNotFoundError: there is no safetensors file.
        """
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{directory}: expected *.safetensors files, found none")
        tensors: dict[str, TensorInfo] = {}
        for file in files:
            tensors |= read_header(file)
        matrices = {
            name.removesuffix(".weight"): (info.shape[0], info.shape[1])
            for name, info in tensors.items()
            if name.endswith(".weight") and len(info.shape) == 2
        }
        shapes = {name: [info.dtype, *info.shape] for name, info in tensors.items()}
        contents = {file.name: _content_sign(file) for file in files}
        return cls(
            name=directory.name, fingerprint=content_hash({"shapes": shapes, "files": contents}), matrices=matrices
        )


class LoraConfig(BaseModel):
    """The keys of adapter_config.json that mean something to a plain LoRA; the rest is checked apart, then dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: str = Field(pattern="^LORA$")
    task_type: str | None = Field(default="CAUSAL_LM", pattern="^CAUSAL_LM$")
    r: int = Field(ge=1, le=512)
    lora_alpha: float = Field(ge=0, le=8192, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=256)]] = Field(
        min_length=1, max_length=256
    )

    def canonical(self, base_name: str) -> dict[str, Any]:
        """The configuration that is stored: what PEFT and vLLM need to load it, nothing else."""
        alpha = int(self.lora_alpha) if self.lora_alpha == int(self.lora_alpha) else self.lora_alpha
        return {
            "base_model_name_or_path": base_name,
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": alpha,
            "lora_dropout": self.lora_dropout,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": sorted(set(self.target_modules)),
            "task_type": "CAUSAL_LM",
        }


class AdapterFacts(Record):
    """What the examination found out about an admissible adapter."""

    config: LoraConfig
    num_parameters: int


def examine(
    directory: Path, base: BaseModelShape | None, *, max_rank: int
) -> tuple[AdapterFacts | None, tuple[str, ...]]:
    """Facts about the adapter in `directory`, and every reason to refuse it (none: it is admissible).

    Of many reasons the first `MAX_REASONS` are given and the others counted. base None: nothing is known of the base
    here, so that names and shapes are only checked against the configuration.
    """
    config, reasons = _examine_config(directory / CONFIG_FILE, max_rank)
    weights = directory / WEIGHTS_FILE
    try:
        tensors = read_header(weights, max_header_bytes=MAX_HEADER_BYTES, max_tensors=MAX_TENSORS)
    except HeaderError as error:
        return None, _shortened([*reasons, str(error)])
    if config is None:
        return None, _shortened(reasons)
    reasons += _examine_tensors(tensors, base, config)
    if not reasons:
        reasons += _not_finite(weights, tensors)
    num_parameters = sum(math.prod(info.shape) for info in tensors.values())
    return AdapterFacts(config=config, num_parameters=num_parameters), _shortened(reasons)


def _shortened(reasons: list[str]) -> tuple[str, ...]:
    left_out = len(reasons) - MAX_REASONS
    return tuple(reasons) if left_out <= 0 else (*reasons[:MAX_REASONS], f"and {left_out} reasons more")


def _examine_config(file: Path, max_rank: int) -> tuple[LoraConfig | None, list[str]]:
    try:
        raw = read_json(file)
    except (ValueError, RecursionError) as error:
        return None, [f"{file.name}: expected JSON: {str(error)[:200]}"]
    if not isinstance(raw, dict):
        return None, [f"{file.name}: expected a JSON object, got {type(raw).__name__}"]
    reasons = [*_not_plain(file.name, raw), *_unknown(file.name, raw)]
    try:
        config = LoraConfig.model_validate(raw)
    except ValidationError as error:
        return None, [*reasons, *(f"{file.name}: {_where(item)}: {item['msg']}" for item in error.errors())]
    for layer in sorted({target.rpartition(".")[2] for target in config.target_modules} & set(FORBIDDEN_LAYERS)):
        reasons.append(f"{file.name}: target_modules: adapters on {layer} are not admitted; train without it")
    if config.r > max_rank:
        reasons.append(f"{file.name}: r: expected at most {max_rank}, got {config.r}; raise the engine's max_lora_rank")
    return config, reasons


def _not_plain(file: str, raw: dict[str, Any]) -> Iterator[str]:
    for key, allowed in PLAIN.items():
        # 0 == False and 1 == True in Python, so the type is compared too.
        if raw.get(key) is not None and (raw[key] != allowed or type(raw[key]) is not type(allowed)):
            yield f"{file}: {key}: expected {allowed!r}, got {str(raw[key])[:60]!r}"
    for key in ("rank_pattern", "alpha_pattern"):
        if raw.get(key):
            yield f"{file}: {key}: expected one rank for all layers, got {str(raw[key])[:60]}"
    if raw.get("init_lora_weights", True) not in SAFE_INITS:
        yield f"{file}: init_lora_weights: expected one that leaves the base alone"


def _unknown(file: str, raw: dict[str, Any]) -> Iterator[str]:
    """A setting nobody here knows may change what the weights mean, so it is only let in while it is off."""
    for key, value in raw.items():
        if key not in PLAIN and key not in WITHOUT_EFFECT and key not in LoraConfig.model_fields and value:
            yield f"{file}: {key[:60]!r}: expected no such setting, got {str(value)[:60]!r}; train without it"


def _where(item: Any) -> str:
    return ".".join(str(part) for part in item["loc"])


def _examine_tensors(tensors: dict[str, TensorInfo], base: BaseModelShape | None, config: LoraConfig) -> list[str]:
    if not tensors:
        return [f"{WEIGHTS_FILE}: expected 1 to {MAX_TENSORS} tensors, found none"]
    reasons, sides = [], dict[str, set[str]]()
    for name, info in tensors.items():
        module, side = _split(name)
        if side is None:
            reasons.append(f"{name[:120]!r}: expected a name like {PREFIX}<module>.lora_A.weight")
            continue
        sides.setdefault(module, set()).add(side)
        reason = _misfit(module, side, info, base, config)
        if reason:
            reasons.append(f"{name[:120]!r}: {reason}")
    reasons += [
        f"{module[:120]!r}: expected both lora_A and lora_B" for module, found in sides.items() if len(found) == 1
    ]
    return reasons


def _split(name: str) -> tuple[str, str | None]:
    """(module, 'A' or 'B') of a tensor name; side None if it is no LoRA weight."""
    for side in ("A", "B"):
        suffix = f".lora_{side}.weight"
        if name.startswith(PREFIX) and name.endswith(suffix):
            return name.removeprefix(PREFIX).removesuffix(suffix), side
    return name, None


def _misfit(module: str, side: str, info: TensorInfo, base: BaseModelShape | None, config: LoraConfig) -> str | None:
    layer = module.rpartition(".")[2]
    if layer in FORBIDDEN_LAYERS:
        return f"adapters on {layer} are not admitted; train without it"
    if not any(module == target or module.endswith(f".{target}") for target in config.target_modules):
        return f"expected one of target_modules {', '.join(sorted(config.target_modules))}"
    if info.dtype not in ("F32", "F16", "BF16"):
        return f"expected F32, F16 or BF16, got {info.dtype}"
    if base is None:
        rank = info.shape[0 if side == "A" else 1] if len(info.shape) == 2 else None
        return None if rank == config.r else f"expected a matrix of rank {config.r}, got shape {info.shape}"
    if module not in base.matrices:
        return f"expected a weight matrix of {base.name}, which has none of that name"
    num_out, num_in = base.matrices[module]
    expected = (config.r, num_in) if side == "A" else (num_out, config.r)
    if info.shape != expected:
        return f"expected shape {expected}, got {info.shape}"
    return None


def _not_finite(file: Path, tensors: dict[str, TensorInfo]) -> list[str]:
    """A reason for every tensor that holds NaN, infinity, or what becomes infinity in an engine."""
    with file.open("rb") as handle:
        return [
            f"{name[:120]!r}: expected finite values up to {MAX_VALUE:g}, found NaN, infinity or larger ones"
            for name, info in tensors.items()
            if not all(_is_sound(chunk, info.dtype) for chunk in _chunks(handle, info))
        ]


def _chunks(handle: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    """The bytes of one tensor, a piece at a time; a piece ends between two values."""
    handle.seek(info.begin)
    for begin in range(info.begin, info.end, _CHUNK_BYTES):
        yield handle.read(min(_CHUNK_BYTES, info.end - begin))


def _is_sound(data: bytes, dtype: str) -> bool:
    if dtype == "BF16":
        # numpy has no bfloat16, which is the upper half of a float32.
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, "<f4" if dtype == "F32" else "<f2")
    # NaN is not less than anything.
    return bool(np.all(np.abs(values) <= MAX_VALUE))


def _content_sign(file: Path) -> str:
    """Content hash of a weights file, from the manifest beside it, else of its ends and length."""
    manifest = file.parent / "manifest.json"
    if manifest.is_file():
        listed = read_json(manifest)["files"].get(file.name)
        if listed is not None:
            return str(listed["sha256"])
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(1 << 20)
        handle.seek(max(0, size - (1 << 20)))
        return content_hash([size, head.hex(), handle.read().hex()])
