// The page: ask, watch the deliberation unfold, read who changed their mind and why.

import { Refused, events, request } from "./events.js";
import { choices, mindChanges } from "./story.js";
import { showAnswer, showCall, showChanges, showChoices, showFacts, showNothing, showOutcome } from "./view.js";

const at = (id) => document.getElementById(id);
const [form, question, model, kind, key] = ["ask", "question", "model", "kind", "key"].map(at);

let underWay = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  void ask();
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
at("stop").addEventListener("click", () => underWay?.abort());
model.addEventListener("change", () => (kind.disabled = !asksMesh()));
key.addEventListener("change", () => void listModels());
void listModels();

const asksMesh = () => model.value === "mesh" || model.value.startsWith("mesh:");

async function listModels() {
  try {
    const { data } = await (await request("GET", "v1/models", key.value)).json();
    const before = model.value;
    model.replaceChildren(group("The mesh", data, "mesh"), group("One member alone", data, "member", "specialist"));
    if (data.some((one) => one.id === before)) model.value = before;
    kind.disabled = !asksMesh();
    fail(null);
  } catch (error) {
    fail(error);
  }
}

function group(label, data, ...kinds) {
  const made = document.createElement("optgroup");
  made.label = label;
  made.append(...data.filter((one) => kinds.includes(one.kind)).map((one) => new Option(one.id, one.id)));
  return made;
}

async function ask() {
  if (underWay) return;
  if (!question.value.trim()) return void question.focus();
  begin();
  let isAnswered = false;
  const answered = () => (isAnswered = true);
  try {
    say(await (asksMesh() ? askMesh : askMember)(underWay.signal, answered));
    at("answer-title").focus();
  } catch (error) {
    if (!isAnswered) showNothing(at("answer-body"), "Nothing was decided.");
    if (error.name === "AbortError") say("Stopped.");
    else fail(error);
  } finally {
    end();
  }
}

async function askMesh(signal, answered) {
  const body = { ...plainRequest(), mesh: { progress: true, answer: kind.value } };
  const phases = at("phases");
  let content = "";
  let mesh = null;
  let calls = 0;
  for await (const event of events(await request("POST", "v1/chat/completions", key.value, body, signal))) {
    const call = event.mesh?.call;
    if (call) {
      at("story").hidden = false;
      showCall(phases, call);
      calls += 1;
      say(`${calls} ${calls === 1 ? "call" : "calls"}; ${call.member} has spoken`);
    } else if (event.mesh) mesh = event.mesh;
    content += event.choices[0]?.delta.content ?? "";
  }
  answered();
  showAnswer(at("answer-body"), content, mesh);
  await tellMore(mesh, signal);
  showFacts(at("answer-body"), mesh);
  return `Decided after ${calls} ${calls === 1 ? "call" : "calls"}.`;
}

/** The trace tells who changed their mind; without it the answer still stands. */
async function tellMore(mesh, signal) {
  const body = at("answer-body");
  try {
    const path = `v1/deliberations/${encodeURIComponent(mesh.deliberation)}`;
    const { deliberation } = await (await request("GET", path, key.value, undefined, signal)).json();
    showChoices(at("phases"), choices(deliberation));
    showChanges(body, mindChanges(deliberation));
    showOutcome(body, (correct) => report(mesh.deliberation, correct));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    fail(new Refused(`The answer stands, but its trace cannot be read: ${error.message}`, error.status, null));
  }
}

async function report(deliberation, correct) {
  try {
    await request("POST", "v1/outcomes", key.value, { deliberation, correct, verifier: "page" });
    return "Noted, thank you.";
  } catch (error) {
    return `Not noted: ${error.message}`;
  }
}

async function askMember(signal, answered) {
  const response = await request("POST", "v1/chat/completions", key.value, plainRequest(), signal);
  let content = "";
  for await (const event of events(response)) {
    content += event.choices[0]?.delta.content ?? "";
    if (!content) continue;
    answered();
    showAnswer(at("answer-body"), content, null);
  }
  return `${model.value} answered alone.`;
}

function plainRequest() {
  return { model: model.value, stream: true, messages: [{ role: "user", content: question.value }] };
}

function begin() {
  underWay = new AbortController();
  fail(null);
  say("Asking…");
  at("send").disabled = true;
  at("stop").hidden = false;
  // The answer has its place from the start, so that nothing moves under the hand when it comes.
  at("answer").hidden = false;
  at("story").hidden = true;
  showNothing(at("answer-body"), "Nobody has decided yet.");
  at("phases").replaceChildren();
  at("status").classList.add("waiting");
}

function end() {
  underWay = null;
  at("send").disabled = false;
  at("stop").hidden = true;
  at("status").classList.remove("waiting");
}

function say(text) {
  at("status").textContent = text;
}

function fail(error) {
  const box = at("error");
  box.hidden = error === null;
  if (error === null) return;
  say("");
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const reason = error instanceof Refused ? error.message : `The door cannot be reached (${error.message}).`;
  box.textContent = error.status === 401 ? "This door needs a key: enter it above." : reason + again;
  if (error.status === 401) key.focus();
}
