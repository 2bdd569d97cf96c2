// From plain data to elements. Text goes in as text, never as markup: models wrote it.

const PHASES = {
  propose: "First answers, each alone",
  extract: "Reading the answers",
  same: "Are these the same answer?",
  digest: "Summaries",
  critique: "Objections",
  revise: "Answers after reading the others",
  account: "Which own step was wrong?",
  vote: "Votes",
  rank: "Ranking",
  synthesise: "Putting it together",
  plan: "Dividing the work",
  review: "Review",
  score: "How surprising is the answer to the others?",
  reflect: "Looking back",
};

const colours = new Map();

/** An element of this name, class and content (text, elements, or lists of them). */
export function el(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.flat(Infinity).filter((one) => one !== null && one !== undefined));
  return made;
}

/** A member's colour, the same all through the page; colours are given out in order of appearance. */
function memberClass(member) {
  if (!colours.has(member)) colours.set(member, `m${colours.size % 8}`);
  return colours.get(member);
}

/** Add one call to the story; phases come in the order of their first call. */
export function showCall(phases, call) {
  const id = `${call.path}|${call.phase}|${call.round}`;
  let group = [...phases.children].find((one) => one.dataset.id === id);
  if (!group) {
    group = el("div", "phase", el("h3", "", phaseTitle(call)));
    group.dataset.id = id;
    phases.append(group);
  }
  const isFailed = Boolean(call.error);
  const head = el("header", "", el("span", "name", call.member), el("span", "quiet", `${call.seconds.toFixed(1)} s`));
  const text = isFailed ? `gave nothing: ${call.error}` : call.said.join("\n· · ·\n").trim();
  // A closed choice: what stood under the letter was in the prompt, and what came of it is below the answer.
  const shown = /^[A-Z]$/.test(text) ? el("p", "quiet", `chose ${text}`) : spoken(text);
  const article = el("article", `call ${isFailed ? "failed" : memberClass(call.member)}`, head, shown);
  article.dataset.id = `${id}|${call.member}`;
  group.append(article);
}

/** Put what was chosen in the place of its letter: the trace knows what stood under it. */
export function showChoices(phases, chosen) {
  for (const { path, phase, round, member, text } of chosen) {
    const articles = [...phases.querySelectorAll("article")];
    const shown = articles.find((one) => one.dataset.id === `${path}|${phase}|${round}|${member}`);
    shown?.querySelector("p.quiet")?.replaceChildren(brief(text));
  }
}

function phaseTitle(call) {
  const name = PHASES[call.phase] ?? call.phase;
  const round = call.round > 1 ? `, round ${call.round}` : "";
  return `${call.path ? `${call.path}: ` : ""}${name}${round}`;
}

/** A text, the rest of a long one folded away. */
function spoken(text) {
  const lead = text.length > 220 ? `${text.slice(0, 200).trimEnd()} …` : text;
  const shown = el("p", "said", lead || "(nothing)");
  if (lead === text) return shown;
  const fold = el("details", "", el("summary", "", "All of it"), el("p", "said", text));
  return [shown, fold];
}

/** Where the answer will be, or would have been. */
export function showNothing(body, text) {
  body.replaceChildren(el("p", "quiet", text));
}

/** The answer and all that the mesh says about it. `mesh` null: one member answered alone. */
export function showAnswer(body, content, mesh) {
  const size = content.length <= 60 ? " short" : "";
  body.replaceChildren(el("p", `said final${size}`, content || "The mesh decided nothing."));
  if (mesh) body.append(certainty(mesh), ...support(mesh), ...missing(mesh));
}

function certainty(mesh) {
  const percent = Math.round(mesh.confidence * 100);
  const meaning = mesh.calibrated
    ? "likely to be right, as measured on judged answers"
    : "of the weight stands behind it; how often that is right has not been measured";
  const tie = mesh.tied ? " It was a tie, decided by rule." : "";
  return el("p", "", `${percent}% ${meaning}.${tie}`);
}

function support(mesh) {
  if (mesh.support.length === 0) return [];
  const title = mesh.support.length === 1 ? "Nobody dissents" : "What they stand for at the end";
  return [el("h3", "", title), ...mesh.support.map(share)];
}

function share({ answer, weight, members }) {
  const bar = el("progress", "");
  bar.max = 1;
  bar.value = weight;
  const percent = `${Math.round(weight * 100)}%`;
  bar.setAttribute("aria-label", `weight behind this answer: ${percent}`);
  const short = answer.length > 160 ? `${answer.slice(0, 150)} …` : answer;
  return el("div", "share", el("span", "said", short), el("span", "", percent), bar, el("span", "quiet", members.join(", ")));
}

function missing(mesh) {
  if (mesh.missing.length === 0) return [];
  const lines = mesh.missing.map((one) => el("li", "", `${one.member}, ${one.phase}: ${one.kind}. ${one.message}`));
  return [el("h3", "", "Who was missing"), el("ul", "", lines)];
}

/** How it was decided, and what it took. */
export function showFacts(body, mesh) {
  const tokens = mesh.usage.reduce((sum, one) => sum + one.prompt_tokens + one.output_tokens, 0);
  const calls = mesh.usage.reduce((sum, one) => sum + one.num_calls, 0);
  const rows = {
    Disagreement: mesh.diagnosis?.shape ?? "not looked at",
    Decided: mesh.method,
    Protocol: mesh.protocol,
    Took: `${mesh.seconds.toFixed(1)} s, ${calls} calls, ${tokens} tokens${mesh.cost ? `, cost ${mesh.cost.toFixed(4)}` : ""}`,
    Seats: `${mesh.channel}, ${mesh.roster}`,
    Trace: mesh.deliberation,
  };
  const list = el("dl", "", Object.entries(rows).map(([name, value]) => [el("dt", "", name), el("dd", "", value)]));
  body.append(el("h3", "", "In figures"), list);
}

/** Who changed their mind and why, below the answer. */
export function showChanges(body, changes) {
  const title = el("h3", "", "Who changed their mind, and why");
  if (changes.length === 0) return void body.append(title, el("p", "quiet", "Nobody did."));
  body.append(title, ...changes.map(change));
}

function change(one) {
  const name = el("span", `name ${memberClass(one.member)}`, one.member);
  const from = el("span", "from", brief(one.from));
  if (one.withdrew !== null) {
    const kept = `wanted to change to ${brief(one.withdrew)}, named no wrong step of its own, and stayed with `;
    return el("div", "change", el("p", "", name, " ", kept, el("span", "to", brief(one.to)), "."));
  }
  const parts = [el("p", "", name, ": ", from, " → ", el("span", "to", brief(one.to)))];
  if (one.read.length) parts.push(el("p", "quiet", `had read: ${one.read.map(position).join("; ")}`));
  if (one.quote) parts.push(el("p", "quiet", "the step of its own that it calls wrong:"), el("blockquote", "", one.quote));
  for (const { member, text } of one.objections) {
    parts.push(el("p", "quiet", `${member} had objected:`), el("blockquote", "", brief(text, 300)));
  }
  parts.push(el("details", "", el("summary", "", "What it says now"), el("p", "said", one.text)));
  return el("div", "change", parts);
}

function position({ answer, supporters }) {
  return `${brief(answer)} (${supporters === 1 ? "one peer" : `${supporters} peers`})`;
}

function brief(text, most = 80) {
  if (text === null) return "no answer";
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > most ? `${line.slice(0, most - 2)} …` : line;
}

/** Buttons that tell the mesh what came of its answer; `report` sends it and resolves to what became of it. */
export function showOutcome(body, report) {
  const said = el("span", "quiet");
  said.setAttribute("role", "status");
  const buttons = [["It was right", true], ["It was wrong", false]].map(([label, correct]) => {
    const button = el("button", "plain", label);
    button.type = "button";
    button.addEventListener("click", async () => {
      buttons.forEach((one) => (one.disabled = true));
      said.textContent = await report(correct);
    });
    return button;
  });
  body.append(el("h3", "", "Was it right?"), el("div", "buttons", buttons), said);
}
