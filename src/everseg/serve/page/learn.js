// Labelled domains, jobs, and the gate's verdict.

import { get, post, remove } from "/page/api.js";

const OPEN = new Set(["queued", "learning", "checking", "ready", "accepting"]);
const SVG = "http://www.w3.org/2000/svg";
export const ENOUGH = 4; // Images of a domain from which learning it is worth a try.
const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Learn {
  /** say(text, kind): the status line. changed(sentence): called when the run is another one than before. */
  constructor(say, changed) {
    this.say = say;
    this.changed = changed;
    this.state = null; // Of the run.
    this.fault = "";
    this.jobs = [];
    this.domains = [];
    this.shown = new Set(); // Verdicts that have been opened by themselves.
    this.armed = false;
    this.deciding = false;
    this.likes = new Map(); // By domain and its counts: the domain of the run that its images look like.
    $("discard").addEventListener("click", () => this.decide("discard"));
    $("accept-job").addEventListener("click", () => this.decide("accept"));
    this.poll();
  }

  async poll() {
    let wait = 4000;
    try {
      await this.refresh();
      if (this.jobs.some((job) => OPEN.has(job.state) && job.state !== "ready")) wait = 700;
      if (this.fault) this.say("The server answers again.", "good");
      this.fault = "";
    } catch (error) {
      if (error.message !== this.fault) this.say(error.message, "bad");
      this.fault = error.message;
    }
    setTimeout(() => this.poll(), wait);
  }

  /** sentence: what to say if the run has changed. */
  async refresh(sentence = "") {
    const [labels, jobs] = await Promise.all([get("/api/labels"), get("/api/jobs")]);
    const changed = this.state !== null && this.state !== jobs.state;
    const labelled = JSON.stringify(labels.domains) !== JSON.stringify(this.domains);
    this.domains = labels.domains;
    this.jobs = jobs.jobs;
    this.state = jobs.state;
    if (changed) this.drawn = "";
    this.drawDomains();
    this.drawJobs();
    if (labelled) this.onLabels?.();
    const ready = this.jobs.find((job) => job.state === "ready");
    if ($("verdict").open && this.job && this.job.id !== ready?.id) $("verdict").close(); // Decided elsewhere.
    if (ready && !this.shown.has(ready.id)) {
      this.shown.add(ready.id);
      await this.open(ready.id);
    }
    this.onChange?.();
    if (changed) await this.changed(sentence);
  }

  /** How many images are accepted. */
  images() { return this.domains.reduce((sum, d) => sum + d.train + d.test, 0); }

  /** What to do after an image of a domain was accepted. more: whether there are images without labels. */
  next(domain, more) {
    const found = this.domains.find((d) => d.domain === domain);
    if (!found || this.jobs.some((job) => OPEN.has(job.state))) return "";
    const count = found.train + found.test;
    if (count < ENOUGH || !found.train || !found.test)
      return more ? `Label the next image; ${ENOUGH} or more are recommended.` : `Add more images; ${ENOUGH} or more are recommended.`;
    return count === ENOUGH ? `Press Learn on the right, or label more images.` : "";
  }

  drawDomains() {
    const list = $("domain-list"), names = $("domains");
    const busy = new Set(this.jobs.filter((job) => OPEN.has(job.state)).map((job) => job.domain));
    const key = JSON.stringify([this.domains.map((d) => [d.domain, d.train, d.test]), [...busy]]);
    if (key === this.drawn) return;
    this.drawn = key;
    names.replaceChildren(...this.domains.map((d) => element("option", { value: d.domain })));
    if (!this.domains.length) {
      list.replaceChildren(element("li", { className: "quiet" }, `Accept masks of ${ENOUGH} or more images; then the run can learn them.`));
      return;
    }
    list.replaceChildren(...this.domains.map((d) => {
      const lacking = !d.train || !d.test;
      const learn = element("button", { type: "button", className: lacking ? "" : "main", disabled: lacking || busy.has(d.domain),
        title: lacking ? "Needs at least one image to train on and one held out" : `Learn ${d.domain} beside the run, which stays as it is` }, "Learn");
      const how = element("select", { hidden: true });
      how.setAttribute("aria-label", `How ${d.domain} is learned`);
      learn.addEventListener("click", () => this.start(d.domain, how.value));
      if (!lacking) this.offer(d, how);
      const held = element("small", { className: "quiet", title: "Images to train on, and images held out for the check" },
        `${d.train} to train, ${d.test} held out`);
      return element("li", {}, element("b", {}, d.domain), held, how, learn);
    }));
  }

  /** Offer to continue with the domain of the run that the labelled images look like. */
  async offer(d, how) {
    const key = JSON.stringify([d, this.state]);
    try {
      if (!this.likes.has(key)) this.likes.set(key, (await get(`/api/routes/${encodeURIComponent(d.domain)}`)).later_of);
    } catch { return; } // Learned as a domain of its own; a fault is told when somebody asks for that.
    const known = this.likes.get(key);
    if (!known) return;
    how.replaceChildren(element("option", { value: "" }, "as a new domain"),
      element("option", { value: known }, `continue with ${known}`));
    how.hidden = false;
  }

  async start(domain, known = "") {
    try {
      await post("/api/jobs", { domain, later_of: known || null });
      this.say(`Learning ${domain}; you can label more images meanwhile. The run stays as it is until you accept.`, "");
      await this.refresh();
    } catch (error) { this.say(error.message, "bad"); }
  }

  drawJobs() {
    const shown = this.jobs.filter((job) => OPEN.has(job.state) || job.state === "failed").concat(
      this.jobs.filter((job) => job.state === "accepted").slice(0, 3));
    $("jobs").replaceChildren(...shown.map((job) => this.card(job)));
  }

  card(job) {
    const box = element("div", { className: "job" });
    const says = {
      queued: `waits, position ${job.position + 1}`, learning: "is being learned", checking: "is being checked",
      ready: "is learned: look and decide", accepting: "is accepted", accepted: "is part of the run",
      failed: "could not be learned",
    };
    box.append(element("div", { className: "row" }, element("b", {}, job.stage), element("span", {}, says[job.state] ?? job.state)));
    const progress = job.progress;
    if (job.state === "learning" || job.state === "checking") {
      const bar = element("progress", { max: 1 });
      bar.setAttribute("aria-label", `Progress of ${job.stage}`);
      if (job.state === "learning" && progress?.steps) {
        bar.value = progress.step / progress.steps;
        const loss = progress.loss == null ? "" : `, loss ${progress.loss.toPrecision(3)}`;
        box.append(bar, element("div", { className: "quiet" },
          `step ${progress.step} of ${progress.steps}${loss}${left(progress.left)}`));
      } else box.append(bar);
      if (progress?.losses?.length > 1) box.append(chart(progress.losses));
      if (!/: step \d/.test(job.says ?? "") || !progress?.steps) box.append(element("div", { className: "says" }, job.says ?? ""));
    }
    if (job.state === "failed") box.append(element("div", { className: "says fail" }, job.error));
    const row = element("div", { className: "row" });
    const add = (text, work, kind = "") => {
      const button = element("button", { type: "button", className: kind }, text);
      button.addEventListener("click", work);
      row.append(button);
    };
    if (["queued", "learning", "checking"].includes(job.state)) add("Cancel", () => this.act(() => remove(`/api/jobs/${job.id}`), "Cancelled; the labels stay."));
    if (job.state === "ready") add("Look and decide", () => this.open(job.id), "main");
    if (job.state === "failed") add("Throw away", () => this.act(() => post(`/api/jobs/${job.id}/discard`), "Thrown away; the labels stay."));
    if (row.childElementCount) box.append(row);
    return box;
  }

  async act(work, sentence) {
    try {
      await work();
      this.say(sentence, "");
      await this.refresh();
    } catch (error) { this.say(error.message, "bad"); }
  }

  async open(id) {
    const job = await get(`/api/jobs/${id}`);
    if (!job.gate) return;
    this.job = job;
    this.armed = false;
    const worse = job.gate.comparisons.filter((c) => c.finding === "worse");
    const unsure = job.gate.comparisons.filter((c) => c.finding === "cannot tell");
    const news = job.gate.comparisons.filter((c) => c.column === job.stage);
    const gain = news.map((c) => `${c.prompt || "IoU"} ${c.old.toFixed(2)} → ${c.new.toFixed(2)}`).join(", ");
    const text = {
      pass: "Nothing that the run knew got worse.",
      fail: `It gets worse on ${worse.map((c) => `${c.column}, ${c.prompt}`).join("; ")}.`,
      "cannot tell": unsure.length
        ? `No drop is proven, but there are too few test images to exclude one on ${[...new Set(unsure.map((c) => c.column))].join(", ")}.`
        : `Nothing that was compared is worse, but not everything was: ${job.gate.left_out.join("; ")}.`,
    }[job.verdict];
    const mark = { pass: "✓", fail: "✕", "cannot tell": "?" }[job.verdict];
    $("verdict-title").textContent = `${mark} ${job.stage} is learned`;
    $("verdict-text").replaceChildren(
      element("strong", { className: { pass: "pass", fail: "fail" }[job.verdict] ?? "unsure" }, text),
      ` On its held-out images: ${gain}. Trained on ${job.images[0]} images in ${Math.round(job.seconds)} s.`);
    $("comparisons").tBodies[0].replaceChildren(...job.gate.comparisons.map((c) => this.row(c, job.stage)));
    this.drawChanges(job);
    $("gate-page").href = `/api/jobs/${job.id}/files/gate.html`;
    $("accept-job").textContent = `Accept: the run learns ${job.stage}`;
    if (!$("verdict").open) $("verdict").showModal();
    $("accept-job").focus();
  }

  row(c, stage) {
    const mark = { "not worse": "✓ ", worse: "✕ ", "cannot tell": "? " }[c.finding];
    const kind = { "not worse": "pass", worse: "fail" }[c.finding] ?? "unsure";
    const number = (value) => element("td", { className: "number" }, value == null ? "" : value.toFixed(3));
    return element("tr", {},
      element("td", {}, c.column === stage ? `${c.column} (new)` : c.column), element("td", {}, c.prompt),
      element("td", { className: "number" }, String(c.units)), number(c.old), number(c.new),
      element("td", { title: c.reason }, element("span", { className: kind }, mark + c.finding)));
  }

  drawChanges(job) {
    const better = job.changes.filter((c) => c.new > c.old), worse = job.changes.filter((c) => c.new <= c.old);
    const parts = [];
    for (const [title, changes] of [["Better", better], ["Worse", worse]]) {
      parts.push(element("h3", {}, changes.length ? title : `${title}: no image`));
      parts.push(element("div", { className: "changes" }, ...changes.map((c) => {
        const figure = (what, caption) => element("figure", {},
          element("img", { src: `/api/jobs/${job.id}/files/${c.pictures[what]}`, alt: `${c.image}, ${caption}` }),
          element("figcaption", {}, caption));
        return element("div", { className: "change" },
          element("div", {}, figure("image", c.prompt), figure("old", `before ${c.old.toFixed(2)}`), figure("new", `after ${c.new.toFixed(2)}`)),
          element("small", { className: "quiet" }, `${c.column}: ${c.image}`));
      })));
    }
    $("changes").replaceChildren(...parts);
  }

  async decide(what) {
    const job = this.job;
    if (this.deciding) return; // A double click.
    const anyway = what === "accept" && job.verdict === "fail";
    if (anyway && !this.armed) {
      this.armed = true;
      $("accept-job").textContent = "It gets worse. Accept anyway?";
      return;
    }
    this.deciding = true;
    try {
      await post(`/api/jobs/${job.id}/${what}`, what === "accept" ? { anyway } : {});
      $("verdict").close();
      const sentence = what === "accept" ? `The run has learned ${job.stage}. Click on an image of it to see its answers.` : `${job.stage} is thrown away; the labels stay.`;
      this.say(sentence, "good");
      await this.refresh(sentence);
    } catch (error) {
      $("verdict").close();
      this.say(error.message, "bad");
    } finally { this.deciding = false; }
  }
}

/** How long the training still takes. */
function left(seconds) {
  if (seconds == null) return "";
  return seconds < 90 ? `, ${Math.round(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
}

/** The losses so far as a line. */
function chart(losses) {
  const values = losses.map(([, loss]) => loss), top = Math.max(...values), low = Math.min(...values, 0);
  const points = values.map((v, n) =>
    `${(n / (values.length - 1)) * 100},${38 - ((v - low) / (top - low || 1)) * 36}`).join(" ");
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  svg.setAttribute("class", "chart"); svg.setAttribute("viewBox", "0 0 100 40"); svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img"); svg.setAttribute("aria-label", `Loss, from ${values[0].toPrecision(3)} to ${values.at(-1).toPrecision(3)}`);
  line.setAttribute("points", points);
  svg.append(line);
  return svg;
}
