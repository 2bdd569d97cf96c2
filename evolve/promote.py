"""The only way back: what passed the gate takes its seats, and the next generation is written into the lineage."""

from __future__ import annotations

from evolve.breed import Brood
from evolve.lab import Lab
from evolve.lineage import Generation, Lineage, Specialist, successor
from evolve.select import Selection
from memory.types import content_hash


def lineage_of(lab: Lab) -> Lineage:
    """The lineage of this run."""
    return Lineage(lab.directory / "generations.jsonl")


def enter_first(lab: Lab, generation: Generation) -> None:
    """Write generation 0 into the lineage, unless it is there."""
    lineage = lineage_of(lab)
    if lineage.latest() is None:
        lineage.append(generation)


async def promote(lab: Lab, generation: Generation, brood: Brood, selection: Selection) -> Generation:
    """The next generation: the chosen arrangement's seats, or the incumbents' again, with the reason said aloud."""
    lab.observer.say(f"generation {generation.number}: {selection.reason}")

    async def work() -> Generation:
        if selection.chosen is None:
            return successor(generation, generation.seats)
        gate = content_hash(selection.gate)
        promoted = [
            Specialist(
                name=candidate.member.name,
                engine=candidate.member.engine,
                family=candidate.member.family,
                adapter=candidate.member.adapter or "",
                parents=candidate.parents,
                generation=generation.number + 1,
                recipe=candidate.recipe.name,
                data_digest=candidate.data_digest,
                gate_digest=gate,
                niche=candidate.recipe.task_types,
            )
            for candidate in brood.candidates
            if candidate.member.name in selection.chosen.candidates
        ]
        return successor(generation, selection.chosen.seats, promoted)

    name = f"promote-generation-{generation.number}"
    inputs = {"generation": generation.digest, "selection": selection.model_dump(mode="json")}
    following = await lab.journal.record(name, inputs, Generation, work)
    lineage = lineage_of(lab)
    latest = lineage.latest()
    if latest is None or latest.number < following.number:
        lineage.append(following)
    return following
