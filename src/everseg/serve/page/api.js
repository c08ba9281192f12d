// Requests to the server. Every failure is an Error whose message is the server's sentence.

export async function ask(path, options = {}) {
  const given = { ...options };
  if (given.json !== undefined) {
    given.body = JSON.stringify(given.json);
    given.headers = { "content-type": "application/json" };
    delete given.json;
  }
  let answer;
  try {
    answer = await fetch(path, given);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; accepted masks are safe. Start it again and go on.");
  }
  if (!answer.ok) {
    let sentence = `${answer.status} ${answer.statusText}`;
    try {
      sentence = (await answer.json()).error ?? sentence;
    } catch { /* no sentence */ }
    const error = new Error(sentence);
    error.status = answer.status;
    throw error;
  }
  if (answer.status === 204) return null;
  return answer.headers.get("content-type")?.includes("json") ? answer.json() : answer.blob();
}

export const get = (path) => ask(path);
export const post = (path, json = {}) => ask(path, { method: "POST", json });
export const remove = (path) => ask(path, { method: "DELETE" });

let session = null;

/** The id of this page; another one where the server has forgotten it. */
export async function withSession(work) {
  session ??= (await post("/api/sessions")).session;
  try {
    return await work(session);
  } catch (error) {
    if (error.status !== 410) throw error;
    session = (await post("/api/sessions")).session;
    return work(session);
  }
}

export function closeSession() {
  if (session) fetch(`/api/sessions/${session}`, { method: "DELETE", keepalive: true });
  session = null;
}

export async function position() {
  return session ? (await get(`/api/queue?session=${session}`)).position : 0;
}
