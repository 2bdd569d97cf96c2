"""Which protocol a command holds: as configured, by name, or from a file of its own."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from evolve.config import ConfigError, MeshConfig
from mesh.config import ProtocolConfig
from mesh.protocols.council import CouncilOptions
from mesh.protocols.escalate import EscalateConfig

KINDS = tuple(one.model_fields["kind"].default for one in get_args(get_args(ProtocolConfig)[0]))


def chosen_protocol(config: MeshConfig, text: str | None) -> ProtocolConfig:
    """The protocol that `text` names, with the sampling and limits of `config`; or the one in the file `text`.

    None: `config.protocol`; without one `escalate`, the default, that talks as `config.deliberation` does.

    Raises:
        ConfigError: no such protocol or file, or a protocol that needs settings of its own.
    """
    if text is None:
        return config.protocol or EscalateConfig.model_validate(_shared(config, EscalateConfig))
    if text in KINDS:
        model = next(one for one in get_args(get_args(ProtocolConfig)[0]) if one.model_fields["kind"].default == text)
        return _checked({"kind": text, **_shared(config, model)}, f"protocol {text!r}")
    path = Path(text)
    if not path.is_file():
        near = difflib.get_close_matches(text, KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"expected a protocol or a YAML file, got {text!r}; {hint}Protocols: {', '.join(KINDS)}")
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected YAML, got: {error}") from error
    return _checked(data, str(path))


def told_protocol(config: MeshConfig, text: str | None, path: Path) -> str:
    """Where the protocol of `chosen_protocol` comes from, and how to take the other; `path`: of the configuration."""
    protocol = chosen_protocol(config, text)
    if text is not None:
        return f"protocol {protocol.kind}, by --protocol"
    if config.protocol is not None:
        return f"protocol {protocol.kind}, as {path} has it"
    configured = config.deliberation.kind
    return (
        f"protocol {protocol.kind}, the default, for {path} sets no protocol; --protocol {configured} takes the "
        f"{configured} of its deliberation, which `evolve` holds"
    )


def _shared(config: MeshConfig, model: type[Any]) -> dict[str, Any]:
    """The options of the configured council that this protocol has too."""
    options = config.deliberation.model_dump(include=set(CouncilOptions.model_fields) - {"kind", "samples_per_member"})
    return {name: value for name, value in options.items() if name in model.model_fields}


def _checked(data: Any, where: str) -> ProtocolConfig:
    try:
        return TypeAdapter(ProtocolConfig).validate_python(data)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or 'protocol'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"{where}: expected a protocol (kind: one of {', '.join(KINDS)}):\n" + "\n".join(lines)
        ) from error
