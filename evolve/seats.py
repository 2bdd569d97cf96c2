"""Who may sit in the mesh: a member on an engine, and the seats before anything was learned."""

from __future__ import annotations

from evolve.config import MeshConfig
from mesh.types import Member
from serving.config import EngineSpec


def base_seats(config: MeshConfig) -> tuple[Member, ...]:
    """Generation 0: `seats_per_engine` seats for every engine, on its base model; the first is called after it."""
    return tuple(
        member_on(engine, engine.name if number == 1 else f"{engine.name}-{number}")
        for number in range(1, config.seats_per_engine + 1)
        for engine in config.serving.engines
    )


def member_on(engine: EngineSpec, name: str, adapter: str | None = None) -> Member:
    """A member on an engine; with an adapter it differs from the engine's other seats in nothing else.

    What a candidate is compared with answers the same prompt and is given the same work.
    """
    return Member(
        name=name,
        engine=engine.name,
        family=engine.family,
        adapter=adapter,
        persona=engine.persona,
        tiers=engine.tiers,
        skills=engine.skills,
    )
