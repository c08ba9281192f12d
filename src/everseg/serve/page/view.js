// The canvas: image, masks, clicks and crosshair; pointers, touch and the wheel.

import { outline, rgb } from "/page/masks.js";

const SLOP = 5; // Screen pixels that a click may wander before it is a box.

export class View {
  /** handlers: click(x, y, on), box(x0, y0, x1, y1), paint(from, to), painted(), hover(x, y). */
  constructor(canvas, colours, handlers) {
    this.canvas = canvas;
    this.colours = colours;
    this.handlers = handlers;
    this.tool = "click";
    this.off = false;
    this.radius = 12;
    this.opacity = 0.45;
    this.image = null;
    this.layers = []; // {mask, colour, dashed}
    this.objects = [];
    this.current = 0;
    this.map = null; // A class map, as an image.
    this.cursor = null; // The keyboard's crosshair, in pixels of the image.
    this.corner = null; // The first corner of a box that is drawn by keys.
    this.scale = 1; this.x = 0; this.y = 0;
    this.pointers = new Map();
    this.drag = null;
    this.overlay = document.createElement("canvas");
    new ResizeObserver(() => { this.resize(); }).observe(canvas.parentElement);
    const on = (name, f, options) => canvas.addEventListener(name, f, options);
    on("pointerdown", (e) => this.down(e));
    on("pointermove", (e) => this.move(e));
    on("pointerup", (e) => this.up(e));
    on("pointercancel", (e) => { this.pointers.delete(e.pointerId); this.drag = null; this.draw(); });
    on("contextmenu", (e) => e.preventDefault());
    on("wheel", (e) => this.wheel(e), { passive: false });
    on("blur", () => { this.draw(); });
    on("focus", () => { this.draw(); });
  }

  get width() { return this.image ? this.image.width : 0; }
  get height() { return this.image ? this.image.height : 0; }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    this.ratio = ratio;
    if (!this.moved) this.fit(); else this.draw();
  }

  show(image) {
    this.image = image;
    this.cursor = null; this.corner = null; this.map = null; this.layers = []; this.objects = [];
    this.fit();
  }

  fit() {
    this.moved = false;
    if (!this.image) { this.draw(); return; }
    const { width, height } = this.canvas, edge = 0.96;
    this.scale = Math.min(width / this.width, height / this.height) * edge;
    this.x = (width - this.width * this.scale) / 2;
    this.y = (height - this.height * this.scale) / 2;
    this.draw();
  }

  zoom(factor, at) {
    const x = at ? at.x : this.canvas.width / 2, y = at ? at.y : this.canvas.height / 2;
    const scale = Math.min(Math.max(this.scale * factor, 0.02), 60);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale; this.moved = true;
    this.draw();
  }

  /** Layers: what is tinted. Drawn once into a picture of the image's size. */
  setLayers(layers) {
    this.layers = layers;
    const { width, height } = this;
    if (!width) return;
    this.overlay.width = width; this.overlay.height = height;
    const context = this.overlay.getContext("2d"), pixels = context.createImageData(width, height);
    const data = pixels.data;
    for (const { mask, colour, lineOnly, dashed } of layers) {
      if (!mask) continue;
      const [r, g, b] = rgb(colour), alpha = Math.round(255 * this.opacity);
      const edge = outline(mask, width, height);
      for (let n = 0, at = 0; n < mask.length; n++, at += 4) {
        if (!mask[n]) continue;
        const line = edge[n] && (!dashed || ((n % width) + Math.floor(n / width)) % 6 < 3);
        if (!line && lineOnly) continue;
        data[at] = r; data[at + 1] = g; data[at + 2] = b; data[at + 3] = line ? 255 : Math.max(data[at + 3], alpha);
      }
    }
    context.putImageData(pixels, 0, 0);
    this.draw();
  }

  draw() {
    const c = this.canvas.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    c.setTransform(this.scale, 0, 0, this.scale, this.x, this.y);
    c.imageSmoothingEnabled = this.scale < 3;
    c.drawImage(this.image, 0, 0);
    c.imageSmoothingEnabled = false;
    if (this.map) { c.globalAlpha = Math.max(0.1, this.opacity); c.drawImage(this.map, 0, 0); c.globalAlpha = 1; }
    if (this.layers.length) c.drawImage(this.overlay, 0, 0);
    c.setTransform(1, 0, 0, 1, 0, 0);
    this.objects.forEach((object, n) => this.marks(c, object, n === this.current));
    if (this.drag?.box) this.frame(c, this.drag.from, this.drag.to, this.colours.box, true);
    if (this.cursor && document.activeElement === this.canvas) this.crosshair(c);
    if (this.brush) {
      c.beginPath(); c.arc(this.brush.x, this.brush.y, this.radius * this.scale, 0, 7);
      c.lineWidth = 3; c.strokeStyle = "#000"; c.stroke(); c.lineWidth = 1.5; c.strokeStyle = "#fff"; c.stroke();
    }
  }

  /** Clicks on the object are discs with a plus, those off it squares with a minus: shapes, not colours alone. */
  marks(c, object, now) {
    const size = 7 * this.ratio;
    c.globalAlpha = now ? 1 : 0.55;
    for (const { x, y, on } of object.clicks) {
      const p = this.toScreen(x, y);
      c.beginPath();
      if (on) c.arc(p.x, p.y, size, 0, 7); else c.rect(p.x - size, p.y - size, 2 * size, 2 * size);
      c.fillStyle = on ? this.colours.on : this.colours.off; c.fill();
      c.lineWidth = 1.5 * this.ratio; c.strokeStyle = "#fff"; c.stroke();
      c.beginPath();
      c.moveTo(p.x - size / 2, p.y); c.lineTo(p.x + size / 2, p.y);
      if (on) { c.moveTo(p.x, p.y - size / 2); c.lineTo(p.x, p.y + size / 2); }
      c.stroke();
    }
    if (object.box) {
      const [x0, y0, x1, y1] = object.box;
      this.frame(c, this.toScreen(x0, y0), this.toScreen(x1, y1), this.colours.box, false);
    }
    c.globalAlpha = 1;
  }

  frame(c, from, to, colour, dashed) {
    for (const [style, width] of [["#fff", 4], [colour, 2]]) {
      c.setLineDash(dashed ? [6 * this.ratio, 4 * this.ratio] : []);
      c.lineWidth = width * this.ratio; c.strokeStyle = style;
      c.strokeRect(Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    }
    c.setLineDash([]);
  }

  crosshair(c) {
    const p = this.toScreen(this.cursor.x, this.cursor.y), arm = 14 * this.ratio;
    for (const [style, width] of [["#000", 4], ["#fff", 2]]) {
      c.lineWidth = width * this.ratio; c.strokeStyle = style;
      c.beginPath();
      c.moveTo(p.x - arm, p.y); c.lineTo(p.x + arm, p.y); c.moveTo(p.x, p.y - arm); c.lineTo(p.x, p.y + arm);
      c.stroke();
    }
    if (this.corner) this.frame(c, this.toScreen(this.corner.x, this.corner.y), p, this.colours.box, true);
  }

  // ---------------------------------------------------------------- places

  toScreen(x, y) { return { x: x * this.scale + this.x, y: y * this.scale + this.y }; }

  toImage(p) {
    return { x: Math.min(Math.max((p.x - this.x) / this.scale, 0), this.width),
             y: Math.min(Math.max((p.y - this.y) / this.scale, 0), this.height) };
  }

  inside(p) {
    const x = (p.x - this.x) / this.scale, y = (p.y - this.y) / this.scale;
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  at(e) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (e.clientX - box.left) * this.ratio, y: (e.clientY - box.top) * this.ratio };
  }

  // ---------------------------------------------------------------- pointers

  down(e) {
    if (!this.image) return;
    this.canvas.setPointerCapture(e.pointerId);
    const p = this.at(e);
    this.pointers.set(e.pointerId, p);
    this.cursor = null;
    if (this.pointers.size === 2) { this.drag = null; this.pinch = this.spread(); this.draw(); return; }
    const pan = this.tool === "pan" || e.button === 1 || this.held;
    this.drag = { from: p, to: p, pan, on: !(e.button === 2 || e.shiftKey) !== this.off, button: e.button,
      paint: !pan && (this.tool === "brush" || this.tool === "eraser") };
    if (this.drag.paint) this.handlers.paint(this.toImage(p), this.toImage(p));
    if (e.button === 1) e.preventDefault();
  }

  move(e) {
    if (!this.image) return;
    const p = this.at(e);
    if (this.pointers.has(e.pointerId)) this.pointers.set(e.pointerId, p);
    this.brush = e.pointerType !== "touch" && (this.tool === "brush" || this.tool === "eraser") ? p : null;
    if (this.pointers.size === 2 && this.pinch) {
      const now = this.spread();
      this.x += now.x - this.pinch.x; this.y += now.y - this.pinch.y;
      this.zoom(now.length / this.pinch.length, now);
      this.pinch = now;
      return;
    }
    const drag = this.drag;
    this.handlers.hover(this.inside(p) ? this.toImage(p) : null);
    if (!drag) { if (this.brush || this.tool !== "click") this.draw(); return; }
    if (drag.pan) {
      this.x += p.x - drag.to.x; this.y += p.y - drag.to.y; this.moved = true;
    } else if (drag.paint) {
      this.handlers.paint(this.toImage(drag.to), this.toImage(p));
    } else if (Math.hypot(p.x - drag.from.x, p.y - drag.from.y) > SLOP * this.ratio && drag.button === 0) {
      drag.box = true;
    }
    drag.to = p;
    this.draw();
  }

  up(e) {
    const drag = this.drag;
    this.pointers.delete(e.pointerId);
    if (this.pointers.size) { this.drag = null; return; }
    this.pinch = null; this.drag = null;
    if (!drag || !this.image) return;
    if (drag.paint) this.handlers.painted();
    else if (!drag.pan && drag.box) {
      const a = this.toImage(drag.from), b = this.toImage(this.at(e));
      const box = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.handlers.box(...box);
    } else if (!drag.pan && this.inside(drag.from)) {
      const p = this.toImage(drag.from);
      this.handlers.click(p.x, p.y, drag.on ? 1 : 0);
    }
    this.draw();
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, length: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)) };
  }

  wheel(e) {
    if (!this.image) return;
    e.preventDefault();
    this.zoom(Math.exp(-e.deltaY * 0.0015), this.at(e));
  }

  // ---------------------------------------------------------------- keys

  /** Move the crosshair by a step in screen pixels. */
  step(dx, dy, far) {
    this.cursor ??= { x: this.width / 2, y: this.height / 2 };
    const pixels = ((far ? 24 : 6) * this.ratio) / this.scale;
    const amount = Math.max(far ? pixels : Math.min(pixels, 1), far ? 1 : 0.5, far ? 0 : pixels);
    this.cursor = { x: Math.min(Math.max(this.cursor.x + dx * amount, 0), this.width - 0.5),
                    y: Math.min(Math.max(this.cursor.y + dy * amount, 0), this.height - 0.5) };
    this.handlers.hover(this.cursor);
    this.draw();
  }

  /** The crosshair, which begins in the middle. */
  place() {
    this.cursor ??= { x: this.width / 2, y: this.height / 2 };
    return this.cursor;
  }

  /** Set a corner of a box; with the second one the box is drawn. */
  setCorner() {
    const p = { ...this.place() };
    if (!this.corner) { this.corner = p; this.draw(); return; }
    const a = this.corner;
    this.corner = null;
    const box = [Math.min(a.x, p.x), Math.min(a.y, p.y), Math.max(a.x, p.x), Math.max(a.y, p.y)];
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.handlers.box(...box);
    this.draw();
  }
}
