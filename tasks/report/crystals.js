"use strict";
// Rotatable crystals on plain 2D canvases: orthographic, painter's order. Coordinates in angstrom, centred on the cell.

const X_UP = ([a, e]) => {
  const ca = Math.cos(a), sa = Math.sin(a), ce = Math.cos(e), se = Math.sin(e);
  // Rows: right, up, toward the viewer. The crystal's c axis stays upright until it is dragged.
  return [[ca, -sa, 0], [se * sa, se * ca, ce], [-ce * sa, -ce * ca, se]];
};
const apply = (m, p) => m.map((r) => r[0] * p[0] + r[1] * p[1] + r[2] * p[2]);
const times = (m, n) => m.map((r) => [0, 1, 2].map((j) => r[0] * n[0][j] + r[1] * n[1][j] + r[2] * n[2][j]));
const mixed = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);
const css = (rgb) => `rgb(${rgb.map((v) => Math.round(v)).join(",")})`;
const shade = (rgb, t) => (t < 0 ? mixed(rgb, [0, 0, 0], -t) : mixed(rgb, [255, 255, 255], t));

class CrystalView {
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.turn = X_UP([0.42, 0.24]);
    this.zoom = 1;
    this.sprites = new Map();
    this.show(scene);
    this.listen();
  }

  show(scene) {
    this.scene = scene;
    const reach = scene.p.map((p, i) => Math.hypot(...p) + scene.r[scene.k[i]]);
    const corners = scene.e.flatMap(([a, b]) => [Math.hypot(...a), Math.hypot(...b)]);
    this.reach = Math.max(1, ...reach, ...corners);
    this.outline = this.visibleOutline();
    this.sprites.clear();
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.rotate((event.clientX - last[0]) * 0.011, (event.clientY - last[1]) * 0.011);
      last = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
      if (!step) return;
      event.preventDefault();
      this.rotate(...step);
    });
    if (canvas.dataset.zoom !== undefined) {
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoom = Math.min(6, Math.max(0.6, this.zoom * Math.exp(-event.deltaY * 0.0012)));
        this.draw();
      }, { passive: false });
    }
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  rotate(right, down) {
    const [a, b] = [Math.cos(right), Math.sin(right)], [c, d] = [Math.cos(down), Math.sin(down)];
    this.turn = times([[1, 0, 0], [0, c, -d], [0, d, c]], times([[a, 0, b], [0, 1, 0], [-b, 0, a]], this.turn));
    this.draw();
  }

  // One lit ball per element and size, drawn once and stamped for every atom.
  ball(kind, radius) {
    const key = `${kind}:${radius.toFixed(1)}`;
    if (!this.sprites.has(key)) {
      const sprite = document.createElement("canvas"), side = Math.ceil(radius * 2) + 2, rgb = this.scene.c[kind];
      sprite.width = sprite.height = side;
      const pen = sprite.getContext("2d"), middle = side / 2;
      const glow = pen.createRadialGradient(middle - radius * 0.36, middle - radius * 0.44, radius * 0.04, middle - radius * 0.1, middle - radius * 0.12, radius * 1.16);
      [[0, 0.8], [0.16, 0.42], [0.42, 0.02], [0.74, -0.22], [0.95, -0.5], [1, -0.56]].forEach(([at, t]) => glow.addColorStop(at, css(shade(rgb, t))));
      pen.fillStyle = glow;
      pen.beginPath();
      pen.arc(middle, middle, radius, 0, 7);
      pen.fill();
      this.sprites.set(key, sprite);
    }
    return this.sprites.get(key);
  }

  // The cell's edges in short pieces, without those inside an atom: they would shine through its front half.
  visibleOutline() {
    const { p, k, e, r } = this.scene, pieces = 16, list = [];
    for (const [start, end] of e) {
      for (let n = 0; n < pieces; n++) {
        const piece = [mixed(start, end, n / pieces), mixed(start, end, (n + 1) / pieces)], middle = mixed(...piece, 0.5);
        if (!p.some((q, i) => Math.hypot(...q.map((v, axis) => v - middle[axis])) < r[k[i]])) list.push(piece);
      }
    }
    return list;
  }

  // Everything to draw with its depth; sticks start where they leave their ball, so that they order rightly beside it.
  items(scale) {
    const { p, k, b, c, r } = this.scene, list = [];
    const at = p.map((point) => apply(this.turn, point));
    at.forEach((point, i) => list.push({ z: point[2], kind: k[i], point, radius: r[k[i]] * scale }));
    for (const [i, j] of b) {
      const length = Math.hypot(...at[i].map((v, n) => v - at[j][n])), middle = mixed(at[i], at[j], 0.5);
      for (const n of [i, j]) {
        const start = mixed(at[n], middle, Math.min(0.95, (r[k[n]] * 0.93 * 2) / length));
        list.push({ z: (start[2] + middle[2]) / 2, from: start, to: middle, rgb: c[k[n]] });
      }
    }
    for (const piece of this.outline) {
      const [from, to] = piece.map((point) => apply(this.turn, point));
      list.push({ z: (from[2] + to[2]) / 2, from, to });
    }
    return list.sort((one, two) => one.z - two.z);
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    const density = window.devicePixelRatio || 1, side = Math.round(box.width * density);
    if (this.canvas.width !== side) {
      this.canvas.width = this.canvas.height = side;
      this.sprites.clear();
    }
    const pen = this.canvas.getContext("2d"), scale = (0.53 * side * this.zoom) / this.reach;
    const style = getComputedStyle(document.documentElement), paper = style.getPropertyValue("--card"), edge = style.getPropertyValue("--faint");
    const place = (point) => [side / 2 + point[0] * scale, side / 2 - point[1] * scale];
    pen.clearRect(0, 0, side, side);
    pen.lineCap = "butt";
    for (const item of this.items(scale)) {
      const far = 0.34 * Math.min(1, Math.max(0, 0.5 - item.z / (2 * this.reach)));
      if (item.point) {
        const [x, y] = place(item.point), sprite = this.ball(item.kind, item.radius);
        pen.drawImage(sprite, x - sprite.width / 2, y - sprite.height / 2);
        pen.globalAlpha = far;
        pen.fillStyle = paper;
        pen.beginPath();
        pen.arc(x, y, item.radius + 0.5, 0, 7);
        pen.fill();
        pen.globalAlpha = 1;
        continue;
      }
      const [x0, y0] = place(item.from), [x1, y1] = place(item.to);
      const strokes = item.rgb
        ? [[0.2, css(shade(item.rgb, -0.45)), 1], [0.14, css(shade(item.rgb, -0.1)), 1], [0.05, css(shade(item.rgb, 0.45)), 1], [0.21, paper, far]]
        : [[0.03, edge, 1 - 1.6 * far]];
      for (const [width, colour, alpha] of strokes) {
        pen.globalAlpha = alpha;
        pen.strokeStyle = colour;
        pen.lineWidth = Math.max(item.rgb ? 1 : density, width * scale);
        pen.beginPath();
        pen.moveTo(x0, y0);
        pen.lineTo(x1, y1);
        pen.stroke();
      }
      pen.globalAlpha = 1;
    }
  }
}
