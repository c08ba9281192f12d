// Masks: a byte per pixel, row by row. On the wire: run lengths in column order, zeros first.

export function fromCounts(counts, width, height) {
  const mask = new Uint8Array(width * height);
  let place = 0, value = 0;
  for (const count of counts) {
    if (value) {
      for (let n = place; n < place + count; n++) mask[(n % height) * width + Math.floor(n / height)] = 1;
    }
    place += count;
    value ^= 1;
  }
  return mask;
}

export function toCounts(mask, width, height) {
  const counts = [];
  let run = 0, value = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x; y < height; y++, at += width) {
      if (mask[at] === value) run++;
      else { counts.push(run); run = 1; value = mask[at]; }
    }
  }
  counts.push(run);
  return counts;
}

/** What an object is: the model's mask with the pixels that were painted in and without those painted out. */
export function merged(object) {
  if (!object.edit) return object.model;
  const mask = object.model ? object.model.slice() : new Uint8Array(object.edit.length);
  for (let n = 0; n < mask.length; n++) {
    if (object.edit[n] === 1) mask[n] = 1;
    else if (object.edit[n] === 2) mask[n] = 0;
  }
  return mask;
}

export function area(mask) {
  let count = 0;
  for (let n = 0; n < mask.length; n++) count += mask[n];
  return count;
}

/** Pixels of the mask with a neighbour outside it. */
export function outline(mask, width, height) {
  const edge = new Uint8Array(mask.length);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!mask[at]) continue;
      if (x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
          !mask[at - 1] || !mask[at + 1] || !mask[at - width] || !mask[at + width]) edge[at] = 1;
    }
  }
  return edge;
}

/** Paint a thick line into a copy of an edit layer. value: 1 in, 2 out. */
export function stroke(edit, width, height, from, to, radius, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 2)));
  for (let s = 0; s <= steps; s++) {
    const cx = from.x + ((to.x - from.x) * s) / steps, cy = from.y + ((to.y - from.y) * s) / steps;
    const top = Math.max(0, Math.floor(cy - radius)), bottom = Math.min(height - 1, Math.ceil(cy + radius));
    for (let y = top; y <= bottom; y++) {
      const reach = Math.sqrt(Math.max(0, radius * radius - (y + 0.5 - cy) ** 2));
      const left = Math.max(0, Math.round(cx - reach)), right = Math.min(width, Math.round(cx + reach));
      for (let x = left; x < right; x++) edit[y * width + x] = value;
    }
  }
}

export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
