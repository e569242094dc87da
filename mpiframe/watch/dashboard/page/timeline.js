// Commands on each server over the last minutes, on a canvas. It is drawn anew a few times a second, and only
// what can be seen.

const LABEL = 46; // pixels at the left, for the ranks
const AXIS = 20; // at the bottom, for the times
const KEPT = 20000;

export const COLOURS = ["running", "done", "failed", "cancelled", "lost", "timeout"];

export class Timeline {
  constructor(canvas, tell) {
    this.canvas = canvas;
    this.tell = tell; // called with a span or null, and whether it is to stay
    this.seconds = 60;
    this.frozen = null; // the moment at the right edge, the servers and the last span, while it stands still
    this.seq = 0;
    this.spans = new Map(); // rank -> spans, in the order in which they ended
    this.servers = [];
    this.skew = 0; // what the world's clock is ahead of this one, in seconds
    this.pinned = null;
    this.hovered = null;
    this.pointer = null; // where the mouse is; what is under it changes as time goes on
    canvas.addEventListener("mousemove", (event) => this.point(event, false));
    canvas.addEventListener("mouseleave", () => {
      this.pointer = null;
      this.hover(null);
    });
    canvas.addEventListener("click", (event) => this.point(event, true));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    let last = 0;
    const step = (now) => {
      if (now - last > 100) {
        last = now;
        this.draw();
      }
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  take(snapshot) {
    this.skew = snapshot.now - Date.now() / 1000;
    this.servers = snapshot.servers;
    this.seq = snapshot.seq;
    for (const span of snapshot.spans) {
      if (span.server === null || span.started === null) continue;
      if (!this.spans.has(span.server)) this.spans.set(span.server, []);
      const lane = this.spans.get(span.server);
      lane.push(span);
      if (lane.length > KEPT) lane.splice(0, lane.length - KEPT);
    }
  }

  clear() {
    this.spans.clear();
    this.pinned = this.hovered = null;
  }

  get right() {
    return this.frozen?.right ?? Date.now() / 1000 + this.skew;
  }

  freeze(on) {
    this.frozen = on ? { right: this.right, servers: this.servers, seq: this.seq } : null;
  }

  get lanes() {
    return this.frozen?.servers ?? this.servers;
  }

  // What is drawn in a lane: what has ended, and what runs.
  *seen(server) {
    const left = this.right - this.seconds;
    const lane = this.spans.get(server.rank) ?? [];
    let first = lane.length;
    while (first > 0 && lane[first - 1].finished >= left) first -= 1;
    const last = this.frozen?.seq ?? Infinity;
    for (let i = first; i < lane.length && lane[i].seq <= last; i += 1) yield lane[i];
    if (server.running !== null && server.since !== null) {
      yield {
        id: server.running, session: server.session, server: server.rank, command: server.command, status: "running",
        started: server.since, finished: null,
      };
    }
  }

  draw() {
    const box = this.canvas.parentElement;
    const width = box.clientWidth;
    const lanes = Math.max(this.lanes.length, 1);
    const row = Math.max(10, Math.min(26, Math.floor(230 / lanes)));
    const height = lanes * row + AXIS;
    const scale = window.devicePixelRatio || 1;
    const canvas = this.canvas;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const colours = Object.fromEntries(COLOURS.map((name) => [name, colour(name)]));
    const right = this.right;
    const left = right - this.seconds;
    const room = width - LABEL - 4;
    const x = (time) => LABEL + ((time - left) / this.seconds) * room;
    this.shown = { row, left, room, seconds: this.seconds };

    pen.font = `11px ${style.fontFamily}`;
    pen.textBaseline = "middle";
    this.lanes.forEach((server, index) => {
      const top = index * row;
      if (index % 2 === 0) {
        pen.fillStyle = colour("stripe");
        pen.fillRect(LABEL, top, room, row);
      }
      pen.fillStyle = colour(server.state === "lost" ? "failed" : "quiet");
      pen.textAlign = "right";
      if (row >= 11 || index % 2 === 0) pen.fillText(String(server.rank), LABEL - 8, top + row / 2 + 0.5);
    });

    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900].find((s) => (s / this.seconds) * room >= 62) ?? 1800;
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("quiet");
    pen.lineWidth = 1;
    pen.textAlign = "center";
    for (let time = Math.ceil(left / step) * step; time < right; time += step) {
      const at = Math.round(x(time)) + 0.5;
      pen.beginPath();
      pen.moveTo(at, 0);
      pen.lineTo(at, lanes * row);
      pen.stroke();
      const words = new Date(time * 1000).toTimeString().slice(0, 8);
      if (at > LABEL + 24 && at < width - 26) pen.fillText(words, at, lanes * row + AXIS / 2 + 1);
    }

    this.lanes.forEach((server, index) => {
      const top = index * row + Math.max(1, row * 0.14);
      const tall = row - 2 * Math.max(1, row * 0.14);
      for (const span of this.seen(server)) {
        const from = Math.max(x(span.started), LABEL);
        const to = Math.min(x(span.finished ?? right), LABEL + room);
        if (to < LABEL) continue;
        const wide = Math.max(to - from - (to - from > 4 ? 1 : 0), 1.2);
        pen.fillStyle = colours[span.status] ?? colour("cancelled");
        pen.globalAlpha = this.hovered && !same(this.hovered, span) ? 0.6 : 1;
        pen.fillRect(from, top, wide, tall);
        pen.globalAlpha = 1;
        if (wide > 42 && row >= 16) {
          pen.save();
          pen.beginPath();
          pen.rect(from, top, wide, tall);
          pen.clip();
          pen.fillStyle = span.status === "running" ? "#1b2230" : colour("on-span");
          pen.textAlign = "left";
          pen.fillText(label(span), from + 5, top + tall / 2 + 0.5);
          pen.restore();
        }
        if (this.pinned && same(this.pinned, span)) {
          pen.strokeStyle = colour("text");
          pen.lineWidth = 1.5;
          pen.strokeRect(from, top, wide, tall);
        }
      }
    });
    if (this.pointer) this.hover(this.at(this.pointer));
    if (!this.lanes.length) {
      pen.textAlign = "left";
      pen.fillStyle = colour("quiet");
      pen.fillText("no servers yet", LABEL, row / 2);
    }
  }

  at({ x, y }) {
    const { row, left, room, seconds } = this.shown;
    const server = this.lanes[Math.floor(y / row)];
    if (!server || x < LABEL) return null;
    const time = left + ((x - LABEL) / room) * seconds;
    const slack = (seconds / room) * 3;
    let best = null;
    let distance = slack;
    for (const span of this.seen(server)) {
      const far = Math.max(span.started - time, time - (span.finished ?? this.right), 0);
      if (far <= distance) {
        best = span;
        distance = far;
        if (far === 0) break;
      }
    }
    return best;
  }

  hover(span) {
    this.hovered = span;
    this.tell(span ?? this.pinned, span === null && this.pinned !== null);
  }

  point(event, pin) {
    const box = this.canvas.getBoundingClientRect();
    this.pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
    const span = this.at(this.pointer);
    if (pin) this.pinned = span;
    this.hover(span);
  }
}

function label(span) {
  return span.count > 1 ? `${span.count} × ${span.command}` : span.command ?? `#${span.id}`;
}

function same(one, other) {
  return one.id === other.id && one.session === other.session && one.server === other.server;
}
