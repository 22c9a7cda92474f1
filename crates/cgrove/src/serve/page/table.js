// The tree of groups. Only the rows that can be seen exist, and only they are drawn.

import { KEPT, MEASURES } from "./model.js";
import { SHOWN, make } from "./words.js";

const HEIGHT = 28;
const SPARE = 4;
const HEADS = [["name", "Group"], ["cpu", "CPU cores"], ["memory", "Memory"], ["io", "Disk I/O"], ["pids", "Tasks"], ["pressure", "Pressure"]];

export class Table {
  constructor(model, chosen) {
    this.model = model;
    this.chosen = chosen;
    this.view = { filter: "", flat: false, sort: "", falling: false };
    this.list = [];
    this.rows = [];
    this.selected = "/";
    this.scroll = document.getElementById("scroll");
    this.ground = document.getElementById("rows");
    this.heads = document.getElementById("heads");
    this.heads.append(...HEADS.map(([key, text]) => make("button", { type: "button", textContent: text, onclick: () => this.sort(key) })));
    this.scroll.addEventListener("scroll", () => this.soon(), { passive: true });
    this.scroll.addEventListener("keydown", (e) => this.key(e));
    new ResizeObserver(() => this.soon()).observe(this.scroll);
    this.sort("name");
  }

  sort(key) {
    const { view } = this;
    // Numbers fall first, names rise.
    view.falling = view.sort === key ? !view.falling : key !== "name";
    view.sort = key;
    HEADS.forEach(([k, text], i) => {
      const button = this.heads.children[i];
      button.textContent = k === key ? `${text} ${view.falling ? "▾" : "▴"}` : text;
      button.setAttribute("aria-pressed", k === key);
    });
    this.refresh();
  }

  // The list anew: a slot came, or the view changed.
  refresh() {
    this.list = this.model.visible(this.view);
    this.scroll.setAttribute("aria-rowcount", this.list.length);
    this.ground.style.height = `${this.list.length * HEIGHT}px`;
    document.getElementById("count").textContent = `${this.list.length} of ${this.model.groups.size} groups`;
    this.soon();
  }

  soon() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = undefined;
      this.draw();
    });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(this.list.length, Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / HEIGHT) + SPARE);
    while (this.rows.length < last - first) this.rows.push(this.newRow());
    const lines = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(MEASURES.map((m) => [m, lines.getPropertyValue(`--${m}`)]));
    const selected = this.list.findIndex((g) => g.path === this.selected);
    if (selected >= first && selected < last) this.scroll.setAttribute("aria-activedescendant", `row-${selected}`);
    else this.scroll.removeAttribute("aria-activedescendant");
    this.rows.forEach((row, i) => {
      const at = first + i;
      row.element.hidden = at >= last;
      if (at < last) this.fill(row, this.list[at], at, colours);
    });
  }

  newRow() {
    const cells = MEASURES.map(() => ({ canvas: make("canvas", { width: 120, height: 46, "aria-hidden": "true" }), text: make("b") }));
    const [fold, name] = [make("i"), make("span")];
    const element = make("div", { className: "row", role: "row" }, make("div", { className: "name", role: "gridcell" }, fold, name));
    for (const { canvas, text } of cells) element.append(make("div", { className: "cell", role: "gridcell" }, canvas, text));
    const row = { element, fold, name, cells, group: null };
    element.addEventListener("click", (e) => {
      if (e.target === fold) this.toggle(row.group);
      else this.select(row.group.path, true);
    });
    this.ground.append(element);
    return row;
  }

  fill(row, group, at, colours) {
    const { element, fold, name, cells } = row;
    const { flat } = this.view;
    row.group = group;
    element.style.transform = `translateY(${at * HEIGHT}px)`;
    element.id = `row-${at}`;
    element.setAttribute("aria-level", group.depth + 1);
    element.setAttribute("aria-rowindex", at + 1);
    element.setAttribute("aria-selected", group.path === this.selected);
    const inner = group.children.length > 0 && !flat;
    if (inner) element.setAttribute("aria-expanded", group.open);
    else element.removeAttribute("aria-expanded");
    fold.textContent = inner ? (group.open ? "▾" : "▸") : "";
    name.textContent = flat ? group.path : group.name;
    element.title = group.path;
    fold.parentElement.style.paddingLeft = `${flat ? 4 : 4 + group.depth * 16}px`;
    MEASURES.forEach((m, i) => {
      const text = SHOWN[m](group.now[m]);
      if (cells[i].text.textContent !== text) cells[i].text.textContent = text;
      cells[i].text.classList.toggle("hot", m === "pressure" && group.now[m] >= 10);
      if (m !== "pressure") this.spark(cells[i].canvas, group.lines[m], colours[m]);
    });
  }

  spark(canvas, line, colour) {
    const pen = canvas.getContext("2d");
    const { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    let most = 0;
    for (const n of line) if (n > most) most = n;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    let drawing = false;
    for (let i = 1; i <= KEPT; i++) {
      const n = line[(this.model.newest + i) % KEPT];
      if (Number.isNaN(n)) {
        drawing = false;
        continue;
      }
      const [x, y] = [((i - 1) / (KEPT - 1)) * (width - 2) + 1, most > 0 ? height - 2 - (n / most) * (height - 4) : height - 2];
      if (drawing) pen.lineTo(x, y);
      else pen.moveTo(x, y);
      drawing = true;
    }
    pen.stroke();
  }

  toggle(group) {
    group.open = !group.open;
    this.refresh();
  }

  all(open) {
    for (const group of this.model.groups.values()) group.open = open || group.depth === 0;
    this.refresh();
  }

  select(path, open) {
    this.selected = path;
    const at = this.list.findIndex((g) => g.path === path);
    if (at >= 0) {
      const top = at * HEIGHT;
      if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
      else if (top + HEIGHT > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = top + HEIGHT - this.scroll.clientHeight;
    }
    this.soon();
    if (open) this.chosen(path);
  }

  key(event) {
    const at = this.list.findIndex((g) => g.path === this.selected);
    const group = this.list[at];
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / HEIGHT) - 1);
    const go = (to) => this.list.length && this.select(this.list[Math.min(Math.max(to, 0), this.list.length - 1)].path);
    const keys = {
      ArrowDown: () => go(at + 1),
      ArrowUp: () => go(at - 1),
      PageDown: () => go(at + page),
      PageUp: () => go(at - page),
      Home: () => go(0),
      End: () => go(this.list.length - 1),
      Enter: () => group && this.select(group.path, true),
      ArrowRight: () => {
        if (group?.children.length && !group.open) this.toggle(group);
        else go(at + 1);
      },
      ArrowLeft: () => {
        if (group?.children.length && group.open && !this.view.flat) this.toggle(group);
        else if (group?.parent) this.select(group.parent.path);
      },
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}
