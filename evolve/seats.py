"""Who sits in the mesh before anything was learned."""

from __future__ import annotations

from evolve.config import MeshConfig
from mesh.types import Member


def base_seats(config: MeshConfig) -> tuple[Member, ...]:
    """Generation 0: one seat for every engine, on its base model."""
    return tuple(
        Member(
            name=engine.name,
            engine=engine.name,
            family=engine.family,
            persona=engine.persona,
            tiers=engine.tiers,
            skills=engine.skills,
        )
        for engine in config.serving.engines
    )
