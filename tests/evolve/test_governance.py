from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from evolve.governance.approvals import APPROVALS_LOCK, ApprovalDesk, ApprovalError, settle
from evolve.governance.audit_log import AUDIT_LOCK, AuditEvent, AuditLog
from evolve.governance.config import ApprovedPromotion, AutomaticPromotion, PromotionPolicy, VetoedPromotion
from evolve.governance.governance import Decision, Proposed, Ruling, audit_events, rule
from memory.ledger import LedgerError, exclusive_lock

PROPOSED = Proposed(run="r", generation=0, arrangement="g1-ada-own", adapters=("aa",), gate="gg", reason="passed")
HOUR = 3600.0


def word(verdict: str, by: str = "kim", at: float = HOUR, about: Proposed = PROPOSED, note: str = "") -> Decision:
    return Decision.model_validate({"proposal": about.content, "verdict": verdict, "by": by, "at": at, "note": note})


def state(policy: PromotionPolicy, *decisions: Decision, now: float = 2 * HOUR) -> str:
    return rule(PROPOSED, decisions, policy, proposed_at=0.0, now=now).state


def test_automatic_promotion_asks_nobody() -> None:
    assert state(AutomaticPromotion(), word("vetoed")) == "granted"


def test_approval_is_waited_for_however_long_and_one_veto_refuses() -> None:
    policy = ApprovedPromotion()
    assert state(policy, now=1e9) == "waiting"
    assert state(policy, word("approved")) == "granted"
    assert state(policy, word("approved"), word("vetoed", by="lee")) == "refused"


def test_two_approvals_are_of_two_people() -> None:
    policy = ApprovedPromotion(num_approvals=2)
    assert state(policy, word("approved"), word("approved", at=2 * HOUR)) == "waiting"
    ruling = rule(PROPOSED, [word("approved")], policy, proposed_at=0.0, now=HOUR)
    assert ruling.reason == "it waits for 1 more approval (kim did)"
    assert state(policy, word("approved"), word("approved", by="lee")) == "granted"


def test_only_approvers_are_heard_and_only_about_this_proposal() -> None:
    policy = ApprovedPromotion(approvers=("kim",))
    assert state(policy, word("approved", by="eve")) == "waiting"
    assert state(policy, word("vetoed", by="eve"), word("approved")) == "granted"
    other = PROPOSED.model_copy(update={"adapters": ("bb",)})
    assert state(policy, word("approved", about=other)) == "waiting"


def test_a_persons_last_word_counts() -> None:
    assert state(ApprovedPromotion(), word("vetoed"), word("approved", at=1.5 * HOUR)) == "granted"
    assert state(ApprovedPromotion(), word("approved"), word("vetoed", at=1.5 * HOUR)) == "refused"


def test_a_veto_window_ends_by_itself_and_a_late_veto_changes_nothing() -> None:
    policy = VetoedPromotion(window_hours=24)
    ruling = rule(PROPOSED, [], policy, proposed_at=0.0, now=HOUR)
    assert (ruling.state, ruling.until) == ("waiting", 24 * HOUR)
    assert state(policy, now=24 * HOUR) == "granted"
    assert state(policy, word("vetoed", at=2 * HOUR), now=100 * HOUR) == "refused"
    assert state(policy, word("vetoed", at=25 * HOUR), now=100 * HOUR) == "granted"
    assert state(policy, word("approved"), now=HOUR) == "granted"


def test_whoever_speaks_again_too_late_does_not_take_back_a_veto_that_was_in_time() -> None:
    policy = VetoedPromotion(window_hours=24)
    in_time, late = word("vetoed", at=2 * HOUR), [word("approved", at=25 * HOUR), word("vetoed", at=26 * HOUR)]
    assert state(policy, in_time, *late, now=100 * HOUR) == "refused"
    assert state(policy, word("approved", at=2 * HOUR), word("vetoed", at=25 * HOUR), now=100 * HOUR) == "granted"


def test_a_final_ruling_is_for_the_log_and_a_waiting_one_is_not() -> None:
    granted = rule(PROPOSED, [word("approved")], ApprovedPromotion(), proposed_at=0.0, now=HOUR)
    (event,) = audit_events(PROPOSED, granted, at=HOUR)
    assert (event.kind, event.by, event.adapter, event.evidence) == ("promoted", "kim", "aa", PROPOSED.content)
    waiting = rule(PROPOSED, [], ApprovedPromotion(), proposed_at=0.0, now=HOUR)
    assert audit_events(PROPOSED, waiting, at=HOUR) == ()


def test_a_word_about_what_is_settled_is_refused_and_not_written_down(tmp_path: Path) -> None:
    policy, desk = ApprovedPromotion(), ApprovalDesk(tmp_path)
    settle(tmp_path, PROPOSED, policy, now=0.0)
    desk.decide(None, "approved", by="kim", at=HOUR)
    assert settle(tmp_path, PROPOSED, policy, now=HOUR).state == "granted"
    with pytest.raises(ApprovalError, match=r"is seated already .*a word now changes nothing"):
        desk.decide(None, "vetoed", by="lee", at=2 * HOUR)
    desk.decide(None, "approved", by="kim", at=2 * HOUR)  # said again, nothing changes
    assert [one.by for one in desk.decisions()] == ["kim"]
    assert [event.kind for event in AuditLog(tmp_path).events()] == ["proposed", "approved", "promoted"]


def test_the_log_holds_every_decision_once_and_notices_a_change(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    assert log.events() == []
    event = AuditEvent(kind="gate_passed", subject="g1", generation=0, at=1.0)
    assert log.add([event, event.model_copy(update={"at": 2.0})]) == 1
    assert log.add([event.model_copy(update={"at": 3.0}), AuditEvent(kind="promoted", subject="g1", generation=0)]) == 1
    assert [one.kind for one in log.events()] == ["gate_passed", "promoted"]
    assert log.verify() == 2
    log.path.write_bytes(log.path.read_bytes().replace(b'"subject":"g1"', b'"subject":"g2"'))
    with pytest.raises(LedgerError):
        log.verify()


def test_a_proposal_is_filed_once_and_decided_in_a_persons_name(tmp_path: Path) -> None:
    desk = ApprovalDesk(tmp_path)
    assert desk.all() == []
    assert desk.decisions() == []
    first = desk.file(PROPOSED, 10.0)
    assert desk.file(PROPOSED, 99.0) == first  # a run that was cut off keeps its place
    desk.decide(None, "approved", by="kim", at=20.0, content=PROPOSED.id)
    desk.decide(PROPOSED.id, "approved", by="kim", at=30.0)
    assert [(one.verdict, one.at) for one in desk.decisions()] == [("approved", 20.0)]
    desk.decide(PROPOSED.id, "vetoed", by="kim", at=40.0, note="wrong data")
    desk.decide(PROPOSED.id, "approved", by="kim", at=50.0)
    assert [event.kind for event in AuditLog(tmp_path).events()] == ["proposed", "approved", "vetoed", "approved"]


def test_what_cannot_be_decided_says_what_can(tmp_path: Path) -> None:
    desk = ApprovalDesk(tmp_path)
    with pytest.raises(ApprovalError, match="no promotion here has asked"):
        desk.decide(None, "approved", by="kim", at=1.0)
    desk.file(PROPOSED, 1.0)
    with pytest.raises(ApprovalError, match=f"expected one of its proposals .{PROPOSED.id}."):
        desk.decide("zz", "approved", by="kim", at=1.0)
    with pytest.raises(ApprovalError, match="look at it again"):
        desk.decide(None, "approved", by="kim", at=1.0, content="ffff")
    with pytest.raises(ApprovalError, match="--by"):
        desk.decide(None, "approved", by=" ", at=1.0)


def test_a_run_that_waits_is_let_on_by_a_word_and_the_ruling_is_logged_once(tmp_path: Path) -> None:
    policy = ApprovedPromotion()
    assert settle(tmp_path, PROPOSED, policy, now=10.0).state == "waiting"
    assert settle(tmp_path, PROPOSED, policy, now=20.0).state == "waiting"
    ApprovalDesk(tmp_path).decide(None, "approved", by="kim", at=30.0)
    assert settle(tmp_path, PROPOSED, policy, now=40.0).state == "granted"
    assert settle(tmp_path, PROPOSED, policy, now=50.0).state == "granted"
    assert [event.kind for event in AuditLog(tmp_path).events()] == ["proposed", "approved", "promoted"]


def test_a_veto_is_heard_or_refused_and_never_acknowledged_beside_a_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, answers = VetoedPromotion(window_hours=1.0), list[str]()
    settle(tmp_path, PROPOSED, policy, now=0.0)

    def veto() -> None:
        try:
            ApprovalDesk(tmp_path).decide(None, "vetoed", by="kim", at=HOUR)
            answers.append("acknowledged")
        except ApprovalError as error:
            answers.append(str(error))

    person = threading.Thread(target=veto)

    def slow_rule(*args: Any, **more: Any) -> Ruling:
        person.start()
        person.join(timeout=0.5)
        return rule(*args, **more)

    monkeypatch.setattr("evolve.governance.approvals.rule", slow_rule)
    assert settle(tmp_path, PROPOSED, policy, now=HOUR).state == "granted"
    person.join()
    assert len(answers) == 1
    assert "is seated already" in answers[0]
    assert ApprovalDesk(tmp_path).decisions() == []


@pytest.mark.parametrize("lock", [APPROVALS_LOCK, AUDIT_LOCK])
def test_a_run_waits_a_moment_for_a_person_who_is_writing(tmp_path: Path, lock: str) -> None:
    held = threading.Event()

    def write_slowly() -> None:
        with exclusive_lock(tmp_path / lock):
            held.set()
            time.sleep(0.3)

    person = threading.Thread(target=write_slowly)
    person.start()
    held.wait()
    assert settle(tmp_path, PROPOSED, ApprovedPromotion(), now=0.0).state == "waiting"
    person.join()


def test_a_veto_window_begins_when_the_proposal_was_first_filed(tmp_path: Path) -> None:
    policy = VetoedPromotion(window_hours=1.0)
    assert settle(tmp_path, PROPOSED, policy, now=0.0).until == HOUR
    assert settle(tmp_path, PROPOSED, policy, now=0.9 * HOUR).state == "waiting"
    assert settle(tmp_path, PROPOSED, policy, now=HOUR).by == ("veto window",)


def test_automatic_promotion_files_nothing(tmp_path: Path) -> None:
    assert settle(tmp_path, PROPOSED, AutomaticPromotion(), now=0.0).state == "granted"
    assert ApprovalDesk(tmp_path).all() == []
    assert [event.by for event in AuditLog(tmp_path).events()] == ["gate"]
