"""The ballot: a closed choice among the distinct standing answers, and its count."""

from __future__ import annotations

from mesh.table import Table
from mesh.tally import plurality, tally_votes
from mesh.types import Verdict
from mesh.vote import MAX_OPTIONS, vote
from mesh.weigh import weigh_votes


async def ballot(table: Table) -> Verdict:
    """Everybody present votes; the most held answers are the options where there are too many."""
    standing, number = table.standing(), table.last_round
    options = [answer for answer, _ in plurality(standing, table.equality).support][:MAX_OPTIONS]
    seats = table.seats("reflection")
    said = await table.hear("vote", number, seats, 1, lambda m: vote(table.caller, m, number, options))
    table.votes += said.values()
    if table.config.tally == "plurality":
        return tally_votes(table.votes, standing, table.equality)
    return weigh_votes(table.votes, standing, table.equality, table.job.reliability, table.members, table.task.type)
