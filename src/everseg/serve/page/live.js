// The page's live session: answers that learn from corrections, and never change the run.

import { get, post, remove, withSession } from "/page/api.js";

const $ = (id) => document.getElementById(id);
const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

export class Live {
  /** say(text, kind): the status line. changed(): called when answers are to be asked for again. */
  constructor(say, changed) {
    this.say = say;
    this.changed = changed;
    this.on = false;
    this.state = { start: null, corrections: 0, objects: 0 };
    this.teaching = Promise.resolve();
    $("live").addEventListener("click", () => this.toggle());
    $("live-undo").addEventListener("click", () => this.undo());
    $("live-discard").addEventListener("click", () => this.discard());
  }

  /** Show what the server says of live sessions. */
  offer(available) {
    $("live-row").hidden = !available;
    if (available && !this.offered) this.on = true;
    this.offered = available;
    if (!available) this.on = false;
    this.draw();
  }

  toggle() {
    this.on = !this.on;
    this.draw();
    this.say(this.on ? "Live: answers learn from your corrections. The run stays as it is." : "Live is off: the run answers.");
    this.changed();
  }

  show(state) {
    this.state = state;
    this.draw();
  }

  draw() {
    const { start, corrections, objects } = this.state;
    $("live").setAttribute("aria-pressed", String(this.on));
    $("live-undo").disabled = $("live-discard").disabled = !corrections;
    $("live-state").textContent = !this.on ? "" : !corrections ? "learns from your first correction on"
      : `${many(corrections, "correction")}, ${many(objects, "object")}; began with ${start ? `module ${start}` : "plain SAM"}`;
  }

  /** Teach objects, {clicks, box, mask?}, one request after the other; whether it was taught. */
  teach(image, objects) {
    const asked = objects.filter((one) => one.box || one.clicks.some((click) => click.on));
    if (!this.on || !asked.length) return Promise.resolve(false);
    const work = async () => {
      try {
        this.show(await withSession((session) => post(`/api/images/${image}/correct`, { session, objects: asked })));
        return true;
      } catch (error) { this.say(error.message, "bad"); return false; }
    };
    return (this.teaching = this.teaching.then(work));
  }

  async undo() {
    await this.act((session) => post(`/api/live/${session}/undo`), "The last correction is taken back.");
  }

  async discard() {
    await this.act((session) => remove(`/api/live/${session}`), "What was taught is thrown away; the run stays as it is.");
  }

  async act(work, sentence) {
    try {
      await this.teaching;
      await withSession(work);
      this.show(await withSession((session) => get(`/api/live/${session}`)));
      this.say(sentence);
      this.changed();
    } catch (error) { this.say(error.message, "bad"); }
  }
}
