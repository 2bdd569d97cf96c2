"""Who sits in the mesh before anything was learned."""

from __future__ import annotations

from evolve.config import MeshConfig
from mesh.types import Member


def base_seats(config: MeshConfig) -> tuple[Member, ...]:
    """Generation 0: `seats_per_engine` seats for every engine, on its base model; the first is called after it."""
    return tuple(
        Member(
            name=engine.name if number == 1 else f"{engine.name}-{number}",
            engine=engine.name,
            family=engine.family,
            persona=engine.persona,
            tiers=engine.tiers,
            skills=engine.skills,
        )
        for number in range(1, config.seats_per_engine + 1)
        for engine in config.serving.engines
    )
