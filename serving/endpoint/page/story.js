// From a trace to who changed their mind and why: nothing here touches the page.

/** Every part of a deliberation with its path, the whole first. */
export function* walk(deliberation, path = "") {
  yield [path, deliberation];
  for (const child of deliberation.children) {
    yield* walk(child, path ? `${path}/${child.step}` : child.step);
  }
}

/**
 * Every revision that changed or took back an answer:
 * {path, member, round, from, to, quote, withdrew, text, read: [{answer, supporters}], objections: [{member, text}]}.
 */
export function mindChanges(whole) {
  const changes = [];
  for (const [path, part] of walk(whole)) {
    const held = new Map();
    const rounds = [...new Set(part.proposals.map((one) => one.round))].sort((a, b) => a - b);
    for (const round of rounds) {
      for (const [member, now] of positions(part, round)) {
        const before = held.get(member);
        if (round > 0 && before && (now.withdrew !== null || !isSame(part, before.answer, now.answer))) {
          changes.push(change(path, part, before, now));
        }
        held.set(member, now);
      }
    }
  }
  return changes;
}

/** What stood under the letters that members chose: {path, phase, round, member, text}. */
export function choices(whole) {
  const found = [];
  for (const [path, part] of walk(whole)) {
    const round = Math.max(0, ...part.exchanges.filter((one) => one.phase === "vote").map((one) => one.round));
    for (const { member, answer } of part.votes) found.push({ path, phase: "vote", round, member, text: `for ${answer}` });
    for (const one of part.proposals) {
      const text = one.quote ? `calls wrong: ${one.quote}` : one.withdrew === null ? null : "names no wrong step";
      if (text) found.push({ path, phase: "account", round: one.round, member: one.member, text });
    }
  }
  return found;
}

/** What each member stood for in a round: the first proposal that holds its most frequent answer. */
function positions(part, round) {
  const said = new Map();
  for (const one of part.proposals) {
    if (one.round === round) said.set(one.member, [...(said.get(one.member) ?? []), one]);
  }
  const held = new Map();
  for (const [member, own] of said) {
    const count = (answer) => (answer === null ? 0 : own.filter((one) => isSame(part, one.answer, answer)).length);
    held.set(member, own.reduce((best, one) => (count(one.answer) > count(best.answer) ? one : best)));
  }
  return held;
}

function change(path, part, before, now) {
  const reading = part.readings.find((one) => one.reader === now.member && one.round === now.round);
  return {
    path,
    member: now.member,
    round: now.round,
    from: before.answer,
    to: now.answer,
    quote: now.quote,
    withdrew: now.withdrew,
    text: now.text,
    read: (reading?.shown ?? []).map(({ answer, supporters }) => ({ answer, supporters })),
    objections: part.critiques.filter(
      (one) => one.valid && one.round <= now.round && one.member !== now.member && isSame(part, one.target_answer, before.answer),
    ),
  };
}

/** Whether two answers are one: equal but for case and blanks, equal numbers, or found to be one by the mesh. */
function isSame(part, first, second) {
  if (first === null || second === null) return first === second;
  const [a, b] = [plain(first), plain(second)];
  if (a === b || (a !== "" && Number(a) === Number(b))) return true;
  return part.merged.some((group) => group.includes(first) && group.includes(second));
}

function plain(answer) {
  return answer.trim().toLowerCase().replace(/\s+/g, " ").replace(/(?<=\d),(?=\d{3})/g, "");
}
