"""Leave to open the answer keys of one held-out split: held by the gate, the audit and the contamination report alone.

The last (`evolve/audit/exposure.py`) holds both, after the last gate and the audit, to ask whether a text holds an
answer; of that it publishes counts alone.

`tests/evolve/test_sealed.py` names the modules and scripts that may import each permit. A module that is not on that
list and wants one is a module that is about to look at what nobody may look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evolve.problems.splits import Split


@dataclass(frozen=True)
class GatePermit:
    """Leave to judge answers to GATE problems."""

    split: ClassVar[Split] = Split.GATE
    purpose: str
    """What for, e.g. 'generation 2 gate'; it is counted by the judge."""


@dataclass(frozen=True)
class AuditPermit:
    """Leave to judge answers to AUDIT problems."""

    split: ClassVar[Split] = Split.AUDIT
    purpose: str
    """What for, e.g. 'audit'; it is counted by the judge."""


Permit = GatePermit | AuditPermit
