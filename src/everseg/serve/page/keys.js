// The keyboard: everything that a pointer can do.

const KEYS = [
  ["Arrows", "move the crosshair; with Shift far"],
  ["Space", "click on the object; with the brush or the eraser, paint"],
  ["X", "click off the object, or switch “Not this” where there is no crosshair"],
  ["B", "first corner of a box, then the second"],
  ["N", "new object"],
  ["Delete", "remove the object"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["V, P, E, H", "click, brush, eraser, move"],
  ["[ and ]", "smaller and larger brush"],
  ["Enter", "accept the masks"],
  ["PageDown, PageUp", "next and previous image"],
  ["+, −, 0", "zoom in, out, whole image"],
  ["C", "compare with plain SAM"],
  ["L", "switch the live session on or off, where the server has one"],
  ["T", "show the truth, where it is known"],
  ["Right click", "not this"],
  ["Wheel, two fingers", "zoom and move"],
];

const TOOLS = { v: "click", p: "brush", e: "eraser", h: "pan" };
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function bind(view, actions) {
  const body = document.querySelector("#keys tbody");
  for (const [keys, what] of KEYS) {
    const row = body.insertRow();
    const key = document.createElement("kbd");
    key.textContent = keys;
    row.insertCell().append(key);
    row.insertCell().textContent = what;
  }
  addEventListener("keydown", (e) => {
    if (document.querySelector("dialog[open]")) return;
    const on = e.target, typing = on.matches("input:not([type=range]), select, textarea");
    const canvas = on === view.canvas;
    const low = e.key.toLowerCase();
    const done = () => e.preventDefault();
    if ((e.ctrlKey || e.metaKey) && low === "z" && !typing) { done(); (e.shiftKey ? actions.redo : actions.undo)(); return; }
    if ((e.ctrlKey || e.metaKey) && low === "y" && !typing) { done(); actions.redo(); return; }
    if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
    if (canvas && STEPS[e.key]) { done(); view.step(...STEPS[e.key], e.shiftKey); return; }
    if (canvas && e.key === " ") {
      done();
      if (view.tool === "brush" || view.tool === "eraser") actions.paintHere();
      else { const p = view.place(); actions.click(p.x, p.y, view.off ? 0 : 1); view.draw(); }
      return;
    }
    if (canvas && e.key === "Enter") { done(); actions.accept(); return; }
    if (low === "x") {
      if (canvas && view.cursor) actions.click(view.cursor.x, view.cursor.y, 0);
      else actions.off();
    } else if (low === "b" && canvas) view.setCorner();
    else if (low === "n") actions.newObject();
    else if ((e.key === "Delete" || e.key === "Backspace") && (canvas || on === document.body)) { done(); actions.removeObject(); }
    else if (TOOLS[low]) actions.tool(TOOLS[low]);
    else if (e.key === "[") actions.size(-3);
    else if (e.key === "]") actions.size(3);
    else if (e.key === "PageDown") { done(); actions.next(1); }
    else if (e.key === "PageUp") { done(); actions.next(-1); }
    else if (e.key === "+" || e.key === "=") view.zoom(1.25);
    else if (e.key === "-") view.zoom(0.8);
    else if (e.key === "0") view.fit();
    else if (low === "c") actions.compare();
    else if (low === "l") actions.live();
    else if (low === "t") actions.truth();
    else if (e.key === "?") actions.help();
    else if (e.key === "Escape") { view.corner = null; view.cursor = null; view.draw(); }
  });
}
