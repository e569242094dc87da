// The page. Everything that comes from the world is set as text, never as HTML.
import { Timeline, COLOURS } from "./timeline.js";

const $ = (id) => document.getElementById(id);
history.replaceState(null, "", "/"); // the token is not to stay in the address; a cookie stands in for it

const LINES = 2000; // of output kept
const OLD_SECONDS = 6; // without news something is wrong
const RATE_SECONDS = 5; // rates are over so long

const state = { last: null, before: null, earlier: [], gone: false, heard: 0, world: null };

// -- small things -----------------------------------------------------------------------------------

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.001) return `${(Math.max(seconds, 0) * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600), Math.floor(whole / 60)];
  const two = (n) => String(n).padStart(2, "0");
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  if (hours < 48) return `${hours}:${two(minutes % 60)}:${two(whole % 60)}`;
  return `${days} d ${hours % 24} h`;
}

function bytes(count) {
  if (count === null || count === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(unit > 2 ? 1 : 0)} ${units[unit]}`;
}

function rate(perSecond) {
  if (perSecond === null) return "";
  if (perSecond < 0.05) return "0";
  if (perSecond < 10) return perSecond.toFixed(1);
  return perSecond < 1000 ? perSecond.toFixed(0) : `${(perSecond / 1000).toFixed(1)}k`;
}

const number = (n) => n.toLocaleString("en").replaceAll(",", "\u2009");

// -- tables: rows are kept and changed in place, so that a selection in them stays ------------------------

function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    cells.forEach((cell, place) => {
      const at = row.cells[place] ?? row.insertCell();
      const { text = "", className = "", bar, state: how, title } = cell;
      at.className = className;
      if (bar !== undefined) {
        let inner = at.querySelector(".bar i");
        if (!inner) {
          at.replaceChildren(make("span", undefined, "bar"));
          inner = at.firstChild.appendChild(document.createElement("i"));
        }
        inner.style.width = `${Math.round(Math.min(Math.max(bar, 0), 1) * 100)}%`;
        at.firstChild.title = `${Math.round(bar * 100)} %`;
      } else if (how !== undefined) {
        at.replaceChildren(make("span", how, `state ${/^[a-z_]+$/i.test(how) ? how.toLowerCase() : ""}`));
      } else if (at.textContent !== String(text) || at.firstElementChild) {
        at.textContent = text;
      }
      if (title !== undefined) at.title = title;
    });
  });
}

// -- parts of the page ------------------------------------------------------------------------------

function perSecond(key, server) {
  const before = state.before?.servers.find((s) => s.rank === server.rank && s.pid === server.pid);
  const seconds = state.before ? state.last.now - state.before.now : 0;
  if (!before || seconds <= 0 || server[key] === null || before[key] === null) return null;
  return Math.max((server[key] - before[key]) / seconds, 0);
}

function showHeader(now) {
  const { world } = now;
  $("name").textContent = world.name ?? "";
  document.title = world.name ? `${world.name} · mpiframe` : "mpiframe";
  const hosts = typeof world.hosts === "number" ? `${world.hosts} host${world.hosts === 1 ? "" : "s"}` : world.hosts;
  $("about").textContent = [world.mpi, `${world.ranks} ranks on ${hosts}`, world.command].filter(Boolean).join(" · ");
}

function showTiles(now) {
  const servers = now.servers;
  const count = (...states) => servers.filter((s) => states.includes(s.state)).length;
  const rates = servers.map((s) => (perSecond("done", s) ?? 0) + (perSecond("failed", s) ?? 0));
  const queued = now.shared_queue + servers.reduce((sum, s) => sum + s.queued, 0);
  const failed = ["failed", "lost", "timeout"].reduce((sum, key) => sum + (now.statuses[key] ?? 0), 0);
  const alive = servers.length - count("lost", "closed");
  const tiles = [
    [`${count("busy")} / ${alive}`, "servers busy"],
    [state.before ? rate(rates.reduce((a, b) => a + b, 0)) : "–", "commands a second"],
    [number(queued), "queued"],
    [number(now.statuses.done ?? 0), "done"],
    [number(failed), "failed, late or lost", failed > 0],
    [span(now.now - now.world.started), "since it began"],
  ];
  if (count("lost")) tiles.push([count("lost"), "servers lost", true]);
  if (count("unresponsive")) tiles.push([count("unresponsive"), "unresponsive", true]);
  const box = $("tiles");
  while (box.children.length > tiles.length) box.lastChild.remove();
  tiles.forEach(([value, words, bad], index) => {
    const tile = box.children[index] ?? box.appendChild(make("div"));
    if (!tile.firstChild) tile.append(make("b"), make("span"));
    tile.className = bad ? "tile bad" : "tile";
    tile.firstChild.textContent = value;
    tile.lastChild.textContent = words;
  });
}

function showServers(now) {
  fill($("servers").tBodies[0], now.servers.map((s) => {
    const cpu = perSecond("cpu", s);
    const done = perSecond("done", s);
    return [
      { text: s.rank, className: "number" },
      { text: s.host, className: "host", title: `${s.host}, process ${s.pid}` },
      { state: s.state },
      { text: s.queued, className: "number" },
      { text: s.command ?? "", className: "command", title: s.running === null ? "" : `#${s.running}${s.session ? ` of ${s.session}` : ""}: ${s.command ?? ""}` },
      { text: s.since === null ? "" : span(now.now - s.since), className: "number" },
      { text: cpu === null ? "" : `${Math.round(cpu * 100)} %`, className: "number" },
      { text: bytes(s.rss), className: "number" },
      { text: number(s.done), className: "number" },
      { text: s.failed ? number(s.failed) : "0", className: s.failed ? "number failed" : "number" },
      { text: rate(done), className: "number" },
      { bar: Math.min(perSecond("busy", s) ?? 0, 1), className: "load" },
    ];
  }));
  $("servers").classList.toggle("onehost", new Set(now.servers.map((s) => s.host)).size === 1);
  $("shared").textContent = now.shared_queue ? `${number(now.shared_queue)} wait for any server` : "";
  const filter = $("filter");
  const ranks = now.servers.map((s) => String(s.rank));
  const there = [...filter.options].slice(1).map((o) => o.value);
  if (ranks.join() !== there.join()) {
    const chosen = filter.value;
    filter.replaceChildren(filter.options[0], ...ranks.map((r) => Object.assign(make("option", `server ${r}`), { value: r })));
    filter.value = ranks.includes(chosen) ? chosen : "";
  }
}

const tails = new Map(); // lines that have not ended: place -> element
let following = true;

function showOutput(pieces) {
  const box = $("output");
  const filter = $("filter").value;
  for (const piece of pieces) {
    const place = `${piece.server}/${piece.session}/${piece.request}/${piece.stream}`;
    const lines = piece.text.split("\n");
    lines.forEach((text, index) => {
      let line = index === 0 ? tails.get(place) : undefined;
      if (line && line.isConnected) {
        line.lastChild.textContent += text;
      } else if (text || index < lines.length - 1) {
        line = make("div", undefined, piece.stream);
        line.dataset.server = piece.server;
        line.hidden = filter !== "" && filter !== String(piece.server);
        if (piece.session) line.title = `of ${piece.session}`;
        line.append(make("b", piece.request > 0 ? `${piece.server} #${piece.request}` : `${piece.server}`), make("span", text));
        box.append(line);
      }
      if (index < lines.length - 1 || !line) tails.delete(place);
      else tails.set(place, line);
    });
  }
  while (box.children.length > LINES) box.firstChild.remove();
  if (following && pieces.length) box.scrollTop = box.scrollHeight;
}

function showSessions(now) {
  $("sessions-card").hidden = !now.sessions.length;
  fill($("sessions").tBodies[0], now.sessions.map((s) => [
    { text: s.name },
    { state: s.connected ? "attached" : "away" },
    { text: number(s.queued ?? 0), className: "number" },
    { text: number(s.running ?? 0), className: "number" },
    { text: number(s.done ?? 0), className: "number" },
  ]));
}

function cellOf(value) {
  if (value === null || value === undefined) return { text: "" };
  if (typeof value === "object") {
    return typeof value.progress === "number" ? { bar: value.progress, className: "load" } : { text: JSON.stringify(value) };
  }
  if (typeof value === "number") return { text: Number.isInteger(value) ? number(value) : String(value), className: "number" };
  return { text: String(value), title: String(value) };
}

const STATE = /^(state|status)$/i; // columns whose cells get a coloured dot

function showPanels(panels) {
  const box = $("panels");
  const wanted = Object.entries(panels).flatMap(([plugin, all]) => all.map((panel) => [`${plugin}@${panel.shared ? "" : panel.server}`, panel]));
  const there = new Map([...box.children].map((card) => [card.dataset.key, card]));
  for (const [key, card] of there) if (!wanted.some(([k]) => k === key)) card.remove();
  for (const [key, panel] of wanted) {
    let card = there.get(key);
    if (!card) {
      card = make("section", undefined, "card panel");
      card.dataset.key = key;
      const head = make("div", undefined, "head");
      head.append(make("h2"), make("span", undefined, "quiet right"));
      const table = make("div", undefined, "scroll");
      table.append(make("table"));
      table.firstChild.append(make("thead"), make("tbody"));
      card.append(head, make("dl", undefined, "facts"), table, make("p", undefined, "none"));
      box.append(card);
    }
    const [head, facts, scroll, note] = card.children;
    head.firstChild.textContent = panel.title ?? key;
    head.lastChild.textContent = panel.shared ? "" : `server ${panel.server}`;
    facts.replaceChildren(...Object.entries(panel.facts ?? {}).map(([name, value]) => {
      const group = make("div");
      group.append(make("dt", name), make("dd", value === null ? "–" : String(value)));
      return group;
    }));
    const rows = panel.rows ?? [];
    const columns = panel.columns ?? [];
    scroll.hidden = !rows.length;
    const heads = scroll.firstChild.tHead;
    fill(heads, [columns.map((c, place) => ({ text: c, className: typeof rows[0]?.[place] === "number" ? "number" : "" }))]);
    fill(scroll.firstChild.tBodies[0], rows.map((row) => row.map((value, place) =>
      value && STATE.test(columns[place]) ? { state: String(value) } : cellOf(value))));
    note.textContent = panel.note ?? (rows.length || Object.keys(panel.facts ?? {}).length ? "" : "nothing yet");
    note.hidden = !note.textContent;
  }
}

function tell(one, kept) {
  const words = describe(one, kept);
  if ($("told").textContent !== words) $("told").textContent = words;
}


function describe(one, kept) {
  if (!one) {
    return "Point at a command to see what it is; click to keep it here.";
  }
  const from = new Date(one.started * 1000).toTimeString().slice(0, 8);
  const took = one.finished === null ? `running since ${from}` : `${one.status} after ${span(one.finished - one.started)}, began ${from}`;
  const waited = one.queued ? `, waited ${span(Math.max(one.started - one.queued, 0))}` : "";
  const which = one.count > 1 ? `${one.count} short commands from #${one.id} on` : `#${one.id}`;
  const who = one.session ? ` of ${one.session}` : "";
  return `${which}${who} on server ${one.server}: ${one.command ?? ""} · ${took}${one.count > 1 ? "" : waited}${kept ? " (kept)" : ""}`;
}

// -- what comes --------------------------------------------------------------------------------------

const timeline = new Timeline($("timeline"), tell);

function forget() {
  timeline.clear();
  tails.clear();
  $("output").replaceChildren();
  state.before = state.last = null;
  state.earlier = [];
}

function take(now) {
  const world = `${now.world.name} ${now.world.started}`;
  if (state.world !== null && state.world !== world) forget();
  state.world = world;
  state.earlier.push({ now: now.now, servers: now.servers });
  while (state.earlier.length > 2 && now.now - state.earlier[1].now >= RATE_SECONDS) state.earlier.shift();
  state.before = state.earlier.length > 1 ? state.earlier[0] : null;
  state.last = now;
  state.heard = performance.now();
  timeline.take(now);
  showHeader(now);
  showTiles(now);
  showServers(now);
  showOutput(now.output);
  showSessions(now);
  showPanels(now.panels);
  if (now.world.closed) banner("The client is closed: its servers have ended. What you see is how it was at the end.");
  link();
}

function banner(words) {
  $("banner").textContent = words;
  $("banner").hidden = !words;
}

function link() {
  const old = performance.now() - state.heard > OLD_SECONDS * 1000;
  const words = state.gone ? "gone" : state.last ? (old ? "no news" : "live") : "connecting";
  $("link").textContent = words;
  $("link").className = `pill ${words === "live" ? "live" : words === "gone" || words === "no news" ? "gone" : ""}`;
}

const source = new EventSource("events");
source.addEventListener("snapshot", (event) => {
  if (!state.gone) banner("");
  take(JSON.parse(event.data));
});
source.addEventListener("gone", (event) => {
  state.gone = true;
  source.close();
  timeline.freeze(true);
  banner(`This world has gone: ${JSON.parse(event.data).message} What you see is how it was at the end.`);
  link();
});
source.addEventListener("error", () => {
  if (state.gone) return;
  banner(source.readyState === EventSource.CLOSED
    ? "The dashboard refuses this page: open the address that it printed when it was started."
    : "The dashboard cannot be reached: it has ended, or the connection to it is broken. Trying again.");
  state.heard = -Infinity;
  link();
});
setInterval(link, 1000);

$("window").addEventListener("change", (event) => {
  timeline.seconds = Number(event.target.value);
});
$("freeze").addEventListener("click", (event) => {
  timeline.freeze(timeline.frozen === null);
  event.target.setAttribute("aria-pressed", String(timeline.frozen !== null));
});
$("filter").addEventListener("change", (event) => {
  const chosen = event.target.value;
  for (const line of $("output").children) line.hidden = chosen !== "" && line.dataset.server !== chosen;
  $("output").scrollTop = $("output").scrollHeight;
});
function follow(on) {
  following = on;
  $("follow").setAttribute("aria-pressed", String(on));
  if (on) $("output").scrollTop = $("output").scrollHeight;
}
$("follow").addEventListener("click", () => follow(!following));
$("output").addEventListener("wheel", (event) => {
  if (event.deltaY < 0) follow(false);
}, { passive: true });
$("legend").append(...COLOURS.map((name) => {
  const item = make("li", name);
  const dot = make("i");
  dot.style.background = `var(--${name})`;
  item.prepend(dot);
  return item;
}));
