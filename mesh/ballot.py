"""The ballot: a closed choice among the distinct standing answers, and its count."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.table import Table
from mesh.tally import plurality, tally_votes
from mesh.types import Proposal, Verdict, Vote
from mesh.vote import MAX_OPTIONS, vote
from mesh.weigh import weigh_votes


async def ballot(table: Table) -> Verdict:
    """Everybody present votes; the most held answers are the options where there are too many."""
    standing, number = table.standing(), table.last_round
    options = [answer for answer, _ in plurality(standing, table.equality).support][:MAX_OPTIONS]
    seats = table.seats("reflection")
    said = await table.hear("vote", number, seats, 1, lambda m: vote(table.caller, m, number, options))
    table.votes += said.values()
    return count(table, table.votes, standing)


def count(table: Table, votes: Sequence[Vote], proposals: Sequence[Proposal]) -> Verdict:
    """The verdict of these votes over these proposals, weighed as the configuration says."""
    if table.config.tally == "plurality":
        return tally_votes(votes, proposals, table.equality)
    return weigh_votes(votes, proposals, table.equality, table.job.reliability, table.members, table.task.type)
