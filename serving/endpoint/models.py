"""What may stand in `model`: the mesh, its protocols, every seat, and every base model by its engine's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.config import ProtocolConfig
from mesh.types import Member
from serving.endpoint.schema import MESH, MESH_PREFIX, Model, ModelList
from serving.roster import Roster


def member_named(name: str, roster: Roster) -> Member | None:
    """The seat of this name, else the base model; None: there is neither."""
    return next((member for member in roster.everyone if member.name == name), None)


def model_names(protocols: Mapping[str, ProtocolConfig], roster: Roster) -> list[str]:
    """Every name, the mesh first."""
    return list(dict.fromkeys([*protocols, *(member.name for member in roster.everyone)]))


def model_list(protocols: Mapping[str, ProtocolConfig], roster: Roster, created: int) -> ModelList:
    """What `GET /v1/models` answers."""
    meshes = [
        Model(id=name, created=created, owned_by="evomesh", kind="mesh", protocol=config.kind)
        for name, config in protocols.items()
    ]
    members = [
        Model(
            id=member.name,
            created=created,
            owned_by=member.family,
            kind="member" if member.adapter is None else "specialist",
            adapter=member.adapter,
        )
        for member in roster.everyone
    ]
    return ModelList(data=(*meshes, *members))


def reserved(names: Iterable[str]) -> list[str]:
    """Names of seats that the mesh itself goes by: they could never be asked."""
    return [name for name in names if name == MESH or name.startswith(MESH_PREFIX)]
