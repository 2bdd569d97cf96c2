// Requests to the door: JSON, and answers that come as server-sent events.

/** What the door refused; `status` is the HTTP status, `retryAfter` seconds or null. */
export class Refused extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The answer to a JSON request; throws Refused. */
export async function request(method, path, key, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Every event of a stream, decoded; ends at [DONE]. A stream that breaks off without it throws. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused("The connection broke off before the answer was complete. Ask again.", 0, null);
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue; // a comment that keeps the connection open
      const text = part.slice("data: ".length);
      if (text === "[DONE]") return;
      const event = JSON.parse(text);
      if (event.error) throw new Refused(event.error.message, 0, null);
      yield event;
    }
  }
}

async function refusal(response) {
  let message = `The door answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not from the door itself: a proxy between, most likely.
  }
  const after = Number(response.headers.get("Retry-After"));
  return new Refused(message, response.status, Number.isFinite(after) && after > 0 ? after : null);
}
