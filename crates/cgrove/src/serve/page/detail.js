// One group: its history, its knobs beside the kernel's, its processes and events.

import { measures } from "./model.js";
import { SHOWN, bytes, clock, make } from "./words.js";

const CHARTS = [
  { title: "CPU, cores", lines: [["cpu", "cores", "--cpu"]], shown: SHOWN.cpu },
  { title: "Memory", lines: [["memory", "in use", "--memory"]], shown: bytes, least: 2 ** 20 },
  { title: "Disk I/O", lines: [["read", "read", "--io"], ["written", "written", "--pressure"]], shown: SHOWN.io, least: 1024 },
  { title: "Tasks", lines: [["pids", "tasks", "--pids"]], shown: SHOWN.pids },
  { title: "Pressure, worst of cpu, memory and disk", lines: [["pressure", "some, 10 s", "--pressure"]], shown: SHOWN.pressure },
];
const AGAIN = 5000;

// Bytes as people write them; what is declared is shown so, too.
function inKernel({ file, kernel }) {
  if (kernel === undefined) return file ? "not there" : "–";
  return /^(memory|hugetlb)\./.test(file) && /^\d{4,}$/.test(kernel) ? bytes(Number(kernel)) : kernel;
}

export class Detail {
  constructor(wire, closed) {
    this.wire = wire;
    this.closed = closed;
    this.element = document.getElementById("detail");
    this.path = null;
    new ResizeObserver(() => this.fit()).observe(this.element);
  }

  async open(path) {
    if (path === this.path) return;
    this.path = path;
    this.points = new Map();
    clearInterval(this.timer);
    this.forget();
    this.knobs = make("div", { id: "knobs" });
    this.plots = make("div", { id: "plots" });
    this.who = make("div", { id: "pids" });
    const close = make("button", { type: "button", textContent: "Close (Esc)", onclick: () => this.close() });
    this.element.replaceChildren(
      make("header", {}, make("h2", { textContent: path }), close),
      this.knobs, this.plots,
      make("p", { className: "dim", textContent: "Drag to zoom, double-click for all." }),
      this.who,
    );
    this.element.hidden = false;
    this.look();
    this.timer = setInterval(() => this.look(), AGAIN);
    try {
      const slots = await this.wire.ask("show_account", { nr_slot: 300, group: path, depth: 0, rates: true });
      if (path !== this.path) return;
      for (const [slot, value] of Object.entries(slots)) this.put(Number(slot), value);
      this.draw(true);
    } catch (error) {
      if (path !== this.path) return;
      this.forget();
      this.plots.replaceChildren(make("p", { className: "dim", textContent: `No history: ${error.message}` }));
    }
  }

  close() {
    clearInterval(this.timer);
    this.forget();
    this.path = null;
    this.element.hidden = true;
    this.closed();
  }

  // Charts that are no longer shown must not follow the crosshair.
  forget() {
    for (const { chart } of this.charts ?? []) chart.destroy();
    this.charts = [];
  }

  put(slot, value) {
    const point = {};
    for (const [controller, node] of Object.entries(value)) {
      const { pressure, ...rest } = measures(controller, node);
      Object.assign(point, rest);
      if (pressure !== undefined) point.pressure = Math.max(pressure, point.pressure ?? 0);
    }
    this.points.set(slot, point);
    if (this.points.size > 3600) this.points.delete(this.points.keys().next().value);
  }

  // A new slot of the whole tree.
  told(slot, value) {
    if (!this.path) return;
    const names = this.path.split("/").filter(Boolean);
    const own = {};
    for (const [controller, node] of Object.entries(value)) {
      const found = names.reduce((at, name) => at?.sub_cgroup?.[name], node);
      if (found) own[controller] = found;
    }
    this.put(slot, own);
    this.draw(false);
  }

  data(lines) {
    const slots = [...this.points.keys()].sort((a, b) => a - b);
    const has = (n) => n !== undefined && !Number.isNaN(n);
    return [slots, ...lines.map(([key]) => slots.map((s) => (has(this.points.get(s)[key]) ? this.points.get(s)[key] : null)))];
  }

  draw(anew) {
    if (anew || !this.charts.length) {
      this.forget();
      this.plots.replaceChildren();
      const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
      this.charts = CHARTS.flatMap(({ title, lines, shown, least = 1 }) => {
        const data = this.data(lines);
        if (!data.slice(1).some((line) => line.some((n) => n !== null))) return [];
        const box = make("div", { className: "chart" });
        this.plots.append(box);
        const chart = new uPlot({
          title, width: this.width(), height: 130,
          cursor: { sync: { key: "history" }, drag: { x: true, y: false } },
          scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : least] } },
          axes: [{ ...axis, values: (_, all) => all.map((s) => clock(s * 1000)) }, { ...axis, size: 76, values: (_, all) => all.map((n) => shown(n)) }],
          series: [{ value: (_, s) => (s ? clock(s * 1000) : "–") }, ...lines.map(([, label, c]) => ({
            label, stroke: colour(c), width: 1.5, value: (_, n) => shown(n ?? NaN), points: { show: false },
          }))],
        }, data, box);
        return [{ chart, lines }];
      });
      if (!this.charts.length) this.plots.append(make("p", { className: "dim", textContent: "Nothing measured yet." }));
      return;
    }
    for (const { chart, lines } of this.charts) {
      // Who zoomed in keeps what he looks at.
      const { min, max } = chart.scales.x;
      const all = chart.data[0];
      const zoomed = all.length && (min > all[0] || max < all[all.length - 1]);
      chart.setData(this.data(lines), !zoomed);
      if (zoomed) chart.redraw();
    }
  }

  width() {
    return Math.max(240, this.element.clientWidth - 26);
  }

  fit() {
    for (const { chart } of this.charts ?? []) chart.setSize({ width: this.width(), height: 130 });
  }

  // What is declared, and what the kernel says now.
  async look() {
    const path = this.path;
    let group;
    try {
      group = await this.wire.ask("get_group", { group: path });
    } catch (error) {
      if (path === this.path) this.knobs.replaceChildren(make("p", { className: "dim", textContent: error.message }));
      return;
    }
    if (path !== this.path) return;
    const rows = group.knobs.map((k) => make("tr", { className: k.differs ? "differs" : "" },
      make("td", { textContent: k.file && k.file !== k.knob ? `${k.knob} (${k.file})` : k.knob }),
      make("td", { textContent: k.wanted ?? "–" }),
      make("td", { textContent: inKernel(k), title: k.kernel ?? "" }),
      make("td", { className: "dim", textContent: k.differs ? "differs" : k.note ?? "" })));
    const head = make("tr", {}, ...["Knob", "Declared", "Kernel", ""].map((t) => make("th", { textContent: t })));
    this.knobs.replaceChildren(rows.length ? make("table", {}, head, ...rows) : make("p", { className: "dim", textContent: "No knobs are declared." }));
    const places = group.places.map((p) => p.directory).join("  ");
    const pids = group.pids.length ? `: ${group.pids.join(" ")}${group.processes > group.pids.length ? " …" : ""}` : "";
    this.who.replaceChildren(
      make("p", {}, `${group.processes} ${group.processes === 1 ? "process" : "processes"}${pids}`),
      make("p", { className: "dim", textContent: places }));
  }
}
