// The page: images, objects with clicks and masks, accepting them.

import { ask, closeSession, get, position, post, withSession } from "/page/api.js";
import { element, ENOUGH, Learn } from "/page/learn.js";
import { Live } from "/page/live.js";
import { bind } from "/page/keys.js";
import { area, fromCounts, merged, stroke, toCounts } from "/page/masks.js";
import { View } from "/page/view.js";

const $ = (id) => document.getElementById(id);
const UNDO = 256 * 2 ** 20; // Bytes of pixels that undoing may need.
const NAMED = {
  outside: "unlike every domain learned: the untouched base answers",
  "natural images": "a natural image: the untouched base answers",
  merged: "the merged adapter",
};

const state = {
  about: null, images: [], total: 0, image: null, tool: "click",
  drafts: new Map(), // By image: {objects, current, undo, redo}
  compare: false, plain: null, truth: false, answer: null, turn: 0, stage: "",
};
let view, learn, live;

export function say(text, kind = "") {
  const status = $("status");
  status.textContent = text;
  status.className = kind;
}

const blank = () => ({ clicks: [], box: null, model: null, edit: null, iou: null });
const draft = () => state.drafts.get(state.image?.id);
const current = () => draft()?.objects[draft().current];
const byClicks = () => state.about.problem === "domains";
const colour = (n) => state.about.colours.objects[n % state.about.colours.objects.length];

// ---------------------------------------------------------------- images

async function loadImages(rescan = false) {
  const found = await get(`/api/images?start=0&limit=${Math.max(200, state.images.length)}&rescan=${rescan}`);
  state.images = found.images;
  state.total = found.total;
  drawImages();
}

/** The end of a long name, which tells images of one folder apart. */
function brief(name) {
  const own = name.replace(/\.\w+$/, "");
  return own.length > 12 ? `…${own.slice(-10)}` : own;
}

function drawImages() {
  $("image-count").textContent = state.total ? `${state.total}` : "";
  $("image-more").hidden = state.images.length >= state.total;
  $("paint").hidden = !state.about.painted.length || state.total > 24;
  $("empty").hidden = Boolean(state.image);
  const key = JSON.stringify([state.images.map((i) => [i.id, i.labels]), state.image?.id]);
  if (key === state.drawn) return;
  state.drawn = key;
  $("image-list").replaceChildren(...state.images.map((image) => {
    const open = element("button", { type: "button", title: image.name });
    open.setAttribute("aria-current", String(image.id === state.image?.id));
    open.dataset.id = image.id;
    open.append(element("img", { src: `/api/images/${image.id}/thumbnail`, loading: "lazy", alt: "" }),
      element("span", {}, brief(image.name)));
    const label = image.labels[0];
    if (label) {
      const held = label.split === "test";
      open.append(element("b", { className: held ? "mark test" : "mark",
        title: held ? "accepted, held out for the check" : "accepted, to train on" }, held ? "held out" : "✓"));
    }
    open.addEventListener("click", () => show(image));
    return element("li", {}, open);
  }));
}

async function show(image) {
  state.image = image;
  state.answer = null; state.plain = null;
  const turn = ++state.turn;
  say(`Opening ${image.name}…`);
  drawImages();
  try {
    const picture = await createImageBitmap(await ask(`/api/images/${image.id}/picture`));
    if (turn !== state.turn) return;
    view.show(picture);
    $("empty").hidden = true;
    if (!state.drafts.has(image.id)) {
      state.drafts.set(image.id, { objects: [blank()], current: 0, undo: [], redo: [] });
      await loadLabel(image);
    }
    draw();
    if (byClicks()) {
      say(image.labels.length ? `${image.name}: these masks are accepted.` : "Click on an object, or drag a box around it. Right click: not this.");
      if (draft().objects.some(asks)) await segment();
    } else await segment();
  } catch (error) { say(error.message, "bad"); }
}

async function loadLabel(image) {
  const label = image.labels[0];
  if (!label) return;
  const found = await get(`/api/labels/${encodeURIComponent(label.domain)}/${encodeURIComponent(label.name)}`);
  const own = state.drafts.get(image.id);
  own.objects = found.masks.map((counts) => ({ ...blank(), model: fromCounts(counts, view.width, view.height) }));
  $("domain").value = label.domain;
}

function next(by) {
  const place = state.images.findIndex((image) => image.id === state.image?.id);
  const image = state.images[place + by];
  if (image) show(image).then(() => $("image-list").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" }));
}

async function upload(files) {
  const added = [], refused = [];
  for (const file of files) {
    const form = new FormData();
    form.append("file", file);
    say(`Adding ${file.name}…`);
    try {
      added.push(await ask("/api/images", { method: "POST", body: form }));
    } catch (error) { refused.push(error.message); }
  }
  try {
    await loadImages();
    const [first] = added;
    if (first && !draft()?.objects.some((object) => asks(object) || object.edit))
      await show(state.images.find((image) => image.id === first.id) ?? first);
  } catch (error) { refused.push(error.message); }
  const counted = `${added.length} of ${files.length} images added.`;
  const more = refused.length > 1 ? ` (and ${refused.length - 1} more)` : "";
  if (refused.length) say(`${files.length > 1 ? `${counted} ` : ""}${refused[0]}${more}`, "bad");
  else say(files.length ? `${counted}${byClicks() ? " Click on an object." : ""}` : "There is no image in it.", "good");
}

async function paint() {
  say("Painting…");
  try {
    const domain = $("paint-domain").value;
    const { images } = await post("/api/painted", { domain, count: 12 });
    await loadImages();
    if (!$("domain").value) $("domain").value = domain;
    await show(state.images.find((image) => image.id === images[0].id));
  } catch (error) { say(error.message, "bad"); }
}

// ---------------------------------------------------------------- objects

const asks = (object) => object.box !== null || object.clicks.some((click) => click.on);

/** Keep what the objects are, so that the next change can be undone. */
function remember() {
  const own = draft();
  own.undo.push({ objects: own.objects.map((object) => ({ ...object, clicks: [...object.clicks] })), current: own.current });
  own.redo = [];
  own.open = true; // Not accepted yet.
  const bytes = () => own.undo.length * own.objects.length * view.width * view.height * 2;
  while (own.undo.length > 5 && bytes() > UNDO) own.undo.shift();
}

function travel(from, to) {
  const own = draft();
  if (!own?.[from].length) { say(from === "undo" ? "Nothing to undo." : "Nothing to redo."); return; }
  own[to].push({ objects: own.objects, current: own.current });
  ({ objects: own.objects, current: own.current } = own[from].pop());
  own.open = own.undo.length > 0;
  state.turn++;
  draw();
  say(from === "undo" ? "Undone." : "Done again.");
}

function click(x, y, on) {
  if (!byClicks() || !draft()) return;
  const object = current();
  if (!on && !asks(object)) { say("Click on the object first, then on what does not belong to it.", "bad"); return; }
  remember();
  object.clicks = [...object.clicks, { x: Math.round(x * 100) / 100, y: Math.round(y * 100) / 100, on }];
  draw();
  corrected(object);
}

/** Ask for the masks; a further click on an object corrects its mask, from which a live session learns. */
async function corrected(object) {
  const image = state.image, asked = state.turn + 1;
  await segment();
  if (object.clicks.length < 2 || state.turn !== asked) return;
  const { clicks, box } = object;
  if (teaches() && await live.teach(image.id, [{ clicks, box }]) && state.turn === asked) await segment();
}

const teaches = () => live.on && !state.stage;

function box(x0, y0, x1, y1) {
  if (!byClicks() || !draft()) return;
  remember();
  const object = current();
  object.box = [x0, y0, x1, y1].map((v) => Math.round(v * 100) / 100);
  draw();
  segment();
}

function paintStroke(from, to) {
  if (!byClicks() || !draft()) return;
  const object = current();
  if (!state.painting) {
    remember();
    object.edit = object.edit ? object.edit.slice() : new Uint8Array(view.width * view.height);
    state.painting = true;
  }
  stroke(object.edit, view.width, view.height, from, to, view.radius, view.tool === "brush" ? 1 : 2);
  if (!state.frame) state.frame = requestAnimationFrame(() => { state.frame = null; drawLayers(); });
}

function painted() {
  state.painting = false;
  draw();
}

function newObject() {
  const own = draft();
  if (!own || !byClicks()) return;
  const empty = own.objects.findIndex((object) => !asks(object) && !object.model && !object.edit);
  if (empty >= 0) own.current = empty;
  else {
    remember();
    own.objects = [...own.objects, blank()];
    own.current = own.objects.length - 1;
  }
  draw();
  say("Click on the next object.");
}

function removeObject(n = draft()?.current) {
  const own = draft();
  if (!own || !byClicks()) return;
  remember();
  own.objects = own.objects.filter((_, place) => place !== n);
  if (!own.objects.length) own.objects = [blank()];
  own.current = Math.min(own.current, own.objects.length - 1);
  draw();
}

/** Ask for the masks of all objects; an answer that is overtaken by another question is dropped. */
async function segment() {
  const turn = ++state.turn, image = state.image, own = draft();
  const asked = own.objects.filter(asks);
  if (byClicks() && !asked.length) { draw(); return; }
  const objects = asked.map(({ clicks, box }) => ({ clicks, box }));
  const path = `/api/images/${image.id}/segment`;
  let answered = false;
  const waiting = setInterval(async () => {
    const place = await position().catch(() => 0);
    if (answered || turn !== state.turn) return; // The answer came while the position was asked for.
    say(place ? `Waiting, position ${place}…` : "Segmenting…");
  }, 500);
  try {
    const answer = await withSession((session) => post(path, { session, objects, stage: state.stage || null, live: byClicks() && teaches() }));
    clearInterval(waiting);
    answered = true;
    if (turn !== state.turn) return;
    if (answer.state !== state.about.state) learn.refresh().catch(() => {});
    state.answer = answer;
    if (answer.live) live.show(answer.live);
    if (byClicks()) {
      answer.masks.forEach((counts, n) => {
        asked[n].model = fromCounts(counts, view.width, view.height);
        asked[n].iou = answer.record.masks[n].predicted_iou;
      });
      say(`${asked.length === 1 ? "One object" : `${asked.length} objects`}, ${Math.round(answer.seconds * 1000)} ms.`
        + (answer.iou ? ` IoU with the truth: ${answer.iou.map((v) => v.toFixed(2)).join(", ")}.` : "") + advice());
    } else {
      view.map = await classPicture(state.truth && answer.truth ? answer.truth : answer.map);
      say(answer.wrong === undefined ? `${Math.round(answer.seconds * 1000)} ms.` : `${(100 * answer.wrong).toFixed(1)} % of the pixels are wrong.`);
    }
    state.plain = null;
    if (state.compare && byClicks()) await comparePlain(path, objects, turn);
  } catch (error) {
    if (turn === state.turn) say(error.message, "bad");
    if (error.status === 404) learn.refresh().catch(() => {}); // The module was forgotten, perhaps.
  } finally {
    answered = true;
    clearInterval(waiting);
    if (turn === state.turn) draw();
  }
}

/** What comes next, until somebody has accepted a few images. */
function advice() {
  if (learn.images() >= 3 || state.image.labels.length) return "";
  return " Is the mask right? Accept it. Else click on what is missing, right-click on what is too much.";
}

async function comparePlain(path, objects, turn) {
  const plain = await withSession((session) => post(path, { session, objects, stage: "plain" }));
  if (turn === state.turn) state.plain = plain.masks.map((counts) => fromCounts(counts, view.width, view.height));
}

/** A class map whose background, black, is transparent. */
async function classPicture(url) {
  const bitmap = new Image(); // The page may fetch from its server alone, and this picture came with the answer.
  bitmap.src = url;
  await bitmap.decode();
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height }), c = canvas.getContext("2d");
  c.drawImage(bitmap, 0, 0);
  const pixels = c.getImageData(0, 0, bitmap.width, bitmap.height), d = pixels.data;
  for (let n = 0; n < d.length; n += 4) if (!d[n] && !d[n + 1] && !d[n + 2]) d[n + 3] = 0;
  c.putImageData(pixels, 0, 0);
  return canvas;
}

// ---------------------------------------------------------------- drawing

function drawLayers() {
  const own = draft();
  if (!own) return;
  const layers = own.objects.map((object, n) => ({ mask: merged(object), colour: colour(n) })).filter((x) => x.mask);
  if (state.plain) layers.push(...state.plain.map((mask) => ({ mask, colour: "#ffffff", lineOnly: true, dashed: true })));
  const answer = state.answer, size = [view.width, view.height];
  if (state.truth && answer?.truth_masks) layers.push({ mask: fromCounts(answer.truth_masks, ...size), colour: state.about.colours.truth, lineOnly: true });
  if (state.truth && answer?.errors) layers.push({ mask: fromCounts(answer.errors, ...size), colour: state.about.colours.off });
  view.objects = own.objects;
  view.current = own.current;
  view.setLayers(layers);
}

function draw() {
  const own = draft();
  if (!own) return;
  drawLayers();
  $("undo").disabled = !own.undo.length;
  $("redo").disabled = !own.redo.length;
  $("objects").replaceChildren(...(byClicks() ? own.objects.map((object, n) => objectRow(object, n, own)) : []));
  $("accept").disabled = !own.objects.some((object) => object.model || object.edit);
  drawRoute();
  drawLegend();
  const known = Boolean(state.answer?.truth_masks || state.answer?.truth);
  $("truth").hidden = !known;
  steps();
}

function objectRow(object, n, own) {
  const mask = merged(object);
  const pixels = mask ? `${area(mask).toLocaleString("en")} px` : "no mask yet";
  const sure = object.iou == null ? "" : `, predicted IoU ${object.iou.toFixed(2)}`;
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = colour(n);
  const pick = element("button", { type: "button", className: "pick" }, `Object ${n + 1} `, element("small", { className: "quiet" }, pixels + sure));
  pick.addEventListener("click", () => { own.current = n; draw(); });
  const gone = element("button", { type: "button", className: "plain", title: `Remove object ${n + 1} (Delete)` }, "✕");
  gone.setAttribute("aria-label", `Remove object ${n + 1}`);
  gone.addEventListener("click", () => removeObject(n));
  const row = element("li", { className: n === own.current ? "now" : "" }, swatch, pick, gone);
  return row;
}

function drawRoute() {
  const record = state.answer?.record, table = $("p-values");
  $("module-choice").hidden = !byClicks() && state.about.modules.length === 0;
  if (!record || !byClicks()) {
    table.hidden = true;
    $("route").textContent = "Click on an object: the module that answers is shown here.";
    return;
  }
  const module = record.module, forced = state.answer.stage;
  const sure = record.probability == null ? "" : ` (${record.probability.toFixed(2)})`;
  const answers = forced ? (forced === "plain" ? "plain SAM, as you asked" : `module ${forced}, as you asked`)
    : state.answer.live?.corrections ? "this page's live session" : module == null ? "this method has one model for all domains" : NAMED[module] ?? `module ${module}${sure}`;
  const compared = state.plain ? agreement() : "";
  $("route").replaceChildren(element("strong", {}, answers), compared);
  const values = record.p_values ?? {};
  table.hidden = !Object.keys(values).length || Boolean(forced);
  table.tBodies[0].replaceChildren(...Object.entries(values).sort((a, b) => b[1] - a[1]).map(([name, p]) => {
    const meter = element("meter", { min: 0, max: 1, value: p, low: 0.001 });
    meter.setAttribute("aria-label", `p-value of ${name}`);
    return element("tr", { className: name === module ? "now" : "" }, element("td", {}, name),
      element("td", {}, p < 0.001 ? p.toExponential(0) : p.toFixed(3)), element("td", {}, meter));
  }));
  const hint = $("label-hint");
  if (module === "outside") hint.textContent = "The run knows no such images: give them a name as a new domain.";
  else if (module && !NAMED[module]) hint.textContent = `They look like ${module}; a further domain of such images gets a number.`;
}

function agreement() {
  const asked = draft().objects.filter(asks);
  const values = state.plain.map((plain, n) => {
    const mask = asked[n]?.model;
    if (!mask) return "";
    let both = 0, any = 0;
    for (let i = 0; i < plain.length; i++) { both += plain[i] & mask[i]; any += plain[i] | mask[i]; }
    return (any ? both / any : 1).toFixed(2);
  });
  return ` Plain SAM (dashed white) agrees with IoU ${values.join(", ")}.`;
}

function drawLegend() {
  const legend = $("legend"), classes = state.answer?.record.classes;
  legend.hidden = byClicks();
  $("objects-box").querySelector("h2").textContent = byClicks() ? "Objects" : "Classes";
  $("object-new").hidden = !byClicks();
  $("label-box").hidden = $("learn-box").hidden = $("steps").hidden = !byClicks();
  if (byClicks() || !classes) return;
  const total = classes.reduce((sum, one) => sum + one.pixels, 0);
  legend.replaceChildren(...classes.filter((one) => one.pixels).map((one) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = state.about.classes.find((c) => c.channel === one.channel)?.colour ?? "#000";
    return element("li", {}, swatch, one.name, element("small", { className: "quiet" }, `${((100 * one.pixels) / total).toFixed(1)} %`));
  }));
}

/** Which of the four steps comes next. */
function steps() {
  if (!byClicks()) return;
  const jobs = learn?.jobs ?? [], own = draft();
  const ready = jobs.some((job) => job.state === "ready");
  const learning = jobs.some((job) => ["queued", "learning", "checking"].includes(job.state));
  const labelled = (learn?.domains ?? []).filter((d) => !state.about.learned.includes(d.domain));
  const enough = labelled.some((d) => d.train && d.test && d.train + d.test >= ENOUGH);
  const masked = own?.objects.some((object) => object.model || object.edit) && !state.image?.labels.length;
  const now = ready ? "check" : learning ? "learn" : masked ? "accept" : enough ? "learn" : "click";
  for (const step of ["click", "accept", "learn", "check"]) {
    $(`step-${step}`).className = step === now ? "now" : "";
    if (step === now) $(`step-${step}`).setAttribute("aria-current", "step");
    else $(`step-${step}`).removeAttribute("aria-current");
  }
}

// ---------------------------------------------------------------- accepting

async function accept() {
  const own = draft(), domain = $("domain").value.trim();
  if (!own) return;
  if (!domain) { say("Name the domain first, for example crystals.", "bad"); $("domain").focus(); return; }
  const objects = own.objects.map((object) => ({ ...object, mask: merged(object) })).filter((object) => object.mask && area(object.mask));
  if (!objects.length) { say("There is no mask to accept; click on an object.", "bad"); return; }
  const image = state.image, width = view.width, height = view.height;
  try {
    const kept = await post("/api/labels", { image: image.id, domain,
      objects: objects.map(({ clicks, box, mask }) => ({ clicks, box, mask: toCounts(mask, width, height) })) });
    own.open = false;
    if (teaches()) live.teach(image.id, objects.map(({ clicks, box, mask }) => ({ clicks, box, mask: toCounts(mask, width, height) })));
    await Promise.all([loadImages(), learn.refresh()]);
    state.image = state.images.find((one) => one.id === image.id) ?? image;
    const place = state.images.findIndex((one) => one.id === image.id);
    const following = state.images.slice(place + 1).find((one) => !one.labels.length);
    const sentence = kept.split === "test" ? `${image.name} is accepted and held out for the check.` : `${image.name} is accepted.`;
    if (following) await show(following);
    say(`${sentence} ${learn.next(domain, following)}`, "good");
    drawImages();
    draw();
  } catch (error) { say(error.message, "bad"); }
}

async function download() {
  const objects = (draft()?.objects ?? []).filter(asks).map(({ clicks, box }) => ({ clicks, box }));
  if (!state.image || (byClicks() && !objects.length)) { say("Click on an object first.", "bad"); return; }
  try {
    const blob = await withSession((session) => post(`/api/images/${state.image.id}/files`, { session, objects, stage: state.stage || null }));
    const link = element("a", { href: URL.createObjectURL(blob), download: `${state.image.name.replace(/^.*\//, "").replace(/\.\w+$/, "")}.zip` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say("The files that `everseg predict` would write, as a zip. Painted corrections are in accepted masks only.");
  } catch (error) { say(error.message, "bad"); }
}

// ---------------------------------------------------------------- the page

const knows = () => state.about.learned.filter((name) => name !== "natural").join(", ") || "nothing yet";

async function loadRun() {
  const about = state.about = await get("/api/run");
  $("run").textContent = `${about.run} · ${about.method} on ${about.base} · knows ${knows()}`;
  $("run").title = `${$("run").textContent} · labels in ${about.labels}`;
  $("module").replaceChildren(element("option", { value: "" }, "the method's choice"), ...about.modules.map((name) => element("option", { value: name }, name === "plain" ? "plain SAM" : name)));
  $("module").value = about.modules.includes(state.stage) ? state.stage : (state.stage = "");
  $("paint-domain").replaceChildren(...about.painted.map((name) => element("option", { value: name }, name)));
  $("compare").hidden = !about.modules.includes("plain");
  live.offer(about.live);
  document.title = `everseg · ${about.run}`;
}

/** Read the run again, to which a domain was added or which another command has changed. */
async function changed(sentence) {
  await loadRun();
  live.show({ start: null, corrections: 0, objects: 0 });
  if (draft()?.objects.some(asks)) await segment();
  say(sentence || `The run was changed elsewhere: it knows ${knows()} now.`, "good");
}

function setTool(tool) {
  view.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  $("canvas").classList.toggle("pan", tool === "pan");
  view.brush = null;
  view.draw();
}

function toggle(id, value) {
  $(id).setAttribute("aria-pressed", String(value));
  return value;
}

const actions = {
  tool: setTool, next, newObject, removeObject, click, accept,
  undo: () => travel("undo", "redo"), redo: () => travel("redo", "undo"),
  live: () => { if (!$("live-row").hidden) live.toggle(); },
  off: () => { view.off = toggle("off", !view.off); },
  compare: () => { state.compare = toggle("compare", !state.compare); state.plain = null; if (draft()) segment(); },
  truth: async () => {
    state.truth = toggle("truth", !state.truth);
    $("truth").textContent = state.truth ? "Hide truth" : "Show truth";
    if (!byClicks() && state.answer?.truth) view.map = await classPicture(state.truth ? state.answer.truth : state.answer.map);
    draw();
  },
  size: (by) => { $("size").value = Number($("size").value) + by; view.radius = Number($("size").value); view.draw(); },
  paintHere: () => { const p = view.place(); paintStroke(p, p); painted(); },
  help: () => $("help").showModal(),
};

async function begin() {
  view = new View($("canvas"), { on: "#009e73", off: "#d55e00", box: "#0072b2" }, { click, box, paint: paintStroke, painted, hover: () => {} });
  live = new Live(say, () => { if (draft()?.objects.some(asks)) segment(); });
  await loadRun();
  view.colours = state.about.colours;
  learn = new Learn(say, changed);
  learn.onChange = steps;
  learn.onLabels = () => loadImages().catch(() => {}); // Another page has accepted something, perhaps.
  await loadImages();
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
  for (const [id, work] of Object.entries({ undo: actions.undo, redo: actions.redo, off: actions.off, compare: actions.compare,
    truth: actions.truth, download, "object-new": newObject, fit: () => view.fit(), "paint-go": paint, "help-open": actions.help,
    "image-more": async () => { const more = await get(`/api/images?start=${state.images.length}&limit=200`); state.images.push(...more.images); drawImages(); } }))
    $(id).addEventListener("click", work);
  $("opacity").addEventListener("input", (e) => { view.opacity = e.target.value / 100; drawLayers(); });
  $("size").addEventListener("input", (e) => { view.radius = Number(e.target.value); view.draw(); });
  $("module").addEventListener("change", (e) => { state.stage = e.target.value; if (draft()) segment(); });
  $("accept-form").addEventListener("submit", (e) => { e.preventDefault(); accept(); });
  for (const id of ["add-files", "add-folder"]) {
    // Of a folder only what may be an image; of files that somebody chose, the server says what is wrong with each.
    const wanted = (f) => id === "add-files" || f.type.startsWith("image/") || /\.(dcm|nii|gz|tiff?)$/i.test(f.name);
    $(id).addEventListener("change", (e) => { upload([...e.target.files].filter(wanted)); e.target.value = ""; });
    $(`${id}-label`).addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); $(id).click(); } });
  }
  let depth = 0;
  addEventListener("dragenter", (e) => { e.preventDefault(); depth++; $("drop").hidden = false; });
  addEventListener("dragleave", () => { if (--depth <= 0) $("drop").hidden = true; });
  addEventListener("dragover", (e) => e.preventDefault());
  addEventListener("drop", (e) => { e.preventDefault(); depth = 0; $("drop").hidden = true; upload([...e.dataTransfer.files]); });
  addEventListener("pagehide", closeSession);
  addEventListener("beforeunload", (e) => { if ([...state.drafts.values()].some((own) => own.open)) e.preventDefault(); });
  bind(view, actions);
  if (state.images.length) await show(state.images.find((image) => !image.labels.length) ?? state.images[0]);
  else say("Add images, or paint some to try the page.");
  document.body.dataset.ready = "true";
}

begin().catch((error) => say(error.message, "bad"));
