// Puts the parts together: what comes in, what is shown, which key does what.

import { Detail } from "./detail.js";
import { Model } from "./model.js";
import { Table } from "./table.js";
import { Wire } from "./wire.js";
import { clock, make } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_EVENTS = 500;
const BACKFILL = { slots: 30, at_once: 10 };
const GRAVE = { oom_kill: "bad", action_failed: "bad", removals_held: "bad", document_refused: "bad", source_away: "bad", state_away: "bad", action_held: "warn", store_away: "warn", memory_max: "warn", memory_high: "warn", pressure: "warn", drift_repaired: "warn" };

const model = new Model();
let connection = "connecting";
let status = null;
let received = 0;
let dropped = 0;

const wire = new Wire(told, (state) => {
  if (state === "live" && connection !== "live") backfill();
  connection = state;
  showState();
});
const table = new Table(model, (path) => detail.open(path));
const detail = new Detail(wire, () => $("scroll").focus());

wire.subscribe({ to: "slots", rates: true });
wire.subscribe({ to: "status" });
wire.subscribe({ to: "events" });

function told(message) {
  if (message.subscription === "slots") {
    received = performance.now();
    dropped += message.dropped ?? 0;
    model.take(message.slot, message.value);
    detail.told(message.slot, message.value);
    table.refresh();
    showAge();
  } else if (message.subscription === "status") {
    status = message.value;
    showState();
  } else if (message.subscription === "events") {
    addEvents(message.events);
  }
}

// The half minute before the page was opened, a little at a time.
async function backfill() {
  try {
    const { events } = await wire.ask("get_events", { nr: 100 });
    $("event-list").replaceChildren();
    addEvents(events);
    for (let done = 0; done < BACKFILL.slots; done += BACKFILL.at_once) {
      const end = (model.newest || Math.floor(Date.now() / 1000)) - done - 1;
      const slots = await wire.ask("show_account", { end_slot: end, nr_slot: BACKFILL.at_once, rates: true });
      for (const [slot, value] of Object.entries(slots)) model.take(Number(slot), value);
      table.soon();
    }
  } catch {
    // Without history the lines grow from now on.
  }
}

function addEvents(events) {
  const list = $("event-list");
  for (const e of events) {
    const kind = make("span", { textContent: e.kind.replaceAll("_", " ") + (e.count > 1 ? ` ×${e.count}` : ""), className: GRAVE[e.kind] ?? "" });
    const where = make("span", { textContent: [e.group, e.knob].filter(Boolean).join(" ") });
    list.prepend(make("li", {}, make("span", { textContent: clock(e.time), title: new Date(e.time).toISOString() }), kind, where, make("span", { textContent: e.text })));
  }
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

const chip = (kind, text, title = "") => make("span", { className: `chip ${kind}`, textContent: text, title });

function showState() {
  const chips = [connection === "live" ? chip("good", "live") : chip("bad", connection === "away" ? "connection lost, trying again" : connection)];
  const banners = [];
  const s = status;
  if (s) {
    $("node").textContent = `on ${s.node}`;
    document.title = `${s.node} – cgrove`;
    const { failures, failures_total, held, held_total, guard } = s.plan;
    if (!s.document) chips.push(chip("bad", "no document in force"));
    else chips.push(chip("good", `document ${s.document.version}`, `digest ${s.document.digest}, ${s.document.groups} groups`));
    if (s.plan.progress) chips.push(chip("warn", s.plan.progress));
    if (failures.length) chips.push(chip("bad", `${failures_total} failing`, failures.map((f) => f.error).join("\n")));
    else if (s.document) chips.push(chip("good", "tree as declared"));
    const waiting = held.filter((h) => !h.why.startsWith("guard"));
    if (waiting.length) chips.push(chip("warn", `${waiting.length}${held_total > held.length ? " or more" : ""} held`, waiting.map((h) => `${h.group}: ${h.why}`).join("\n")));
    chips.push(chip(s.source.connected ? "good" : "bad", s.source.connected ? s.source.kind : `${s.source.kind} away`, s.source.error ?? s.source.place));
    if (s.store.kind !== "memory") chips.push(chip(s.store.connected ? "good" : "warn", s.store.connected ? s.store.kind : `${s.store.kind} away`, s.store.error ?? ""));
    if (guard && !guard.approved) {
      banners.push(make("div", { className: "banner bad" }, `Removals wait for approval: ${guard.why}. On the node, as root: `, make("code", { textContent: `cgrove approve ${guard.digest}` })));
    }
    if (s.refused) banners.push(make("div", { className: "banner bad", textContent: `Document version ${s.refused.version} was refused: ${s.refused.error}` }));
    if (failures.length) banners.push(make("div", { className: "banner bad", textContent: failures[0].error + (failures_total > 1 ? ` (and ${failures_total - 1} more)` : "") }));
  }
  $("state").replaceChildren(...chips);
  $("banners").replaceChildren(...banners);
}

function showAge() {
  const missed = dropped ? `, ${dropped} slots missed` : "";
  if (!received) return void ($("age").textContent = "no data yet");
  const seconds = (performance.now() - received) / 1000;
  $("age").textContent = `${clock(model.newest * 1000)}, ${seconds.toFixed(1)} s ago${missed}`;
  $("age").className = seconds > 3 ? "chip bad" : "";
}
setInterval(showAge, 200);

// -- keys and buttons -------------------------------------------------------------------------------------------------

$("filter").addEventListener("input", (e) => {
  table.view.filter = e.target.value;
  $("scroll").scrollTop = 0;
  table.refresh();
});
$("filter").addEventListener("keydown", (e) => {
  if (e.key === "Enter" || e.key === "ArrowDown") $("scroll").focus();
});
$("shape").addEventListener("click", () => {
  table.view.flat = !table.view.flat;
  $("shape").setAttribute("aria-pressed", table.view.flat);
  table.refresh();
});
$("fold").addEventListener("click", () => table.all(false));
$("unfold").addEventListener("click", () => table.all(true));
$("fold-events").addEventListener("click", () => {
  const hidden = ($("event-list").hidden = !$("event-list").hidden);
  $("fold-events").setAttribute("aria-expanded", !hidden);
});

const THEMES = ["auto", "dark", "light"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try {
  theme = localStorage.getItem("theme") ?? "auto";
} catch {
  // Storage may be forbidden.
}
function paint() {
  const now = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = now;
  $("theme").textContent = `Theme: ${theme}`;
  table.soon();
  if (detail.path) detail.draw(true);
}
dark.addEventListener("change", paint);
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Then it lasts as long as the page.
  }
  paint();
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") {
    if (detail.path) detail.close();
    else $("scroll").focus();
    return;
  }
  if (e.target.matches("input") || e.ctrlKey || e.metaKey || e.altKey) return;
  const press = { f: "shape", c: "fold", e: "unfold", t: "theme" }[e.key];
  if (press) $(press).click();
  if (e.key === "/") {
    e.preventDefault();
    $("filter").focus();
  }
});

paint();
showState();
showAge();
$("scroll").focus();
