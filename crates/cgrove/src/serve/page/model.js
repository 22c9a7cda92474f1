// Groups and their newest minute, out of slots with rates.

export const KEPT = 60;
export const MEASURES = ["cpu", "memory", "io", "pids", "pressure"];

class Group {
  constructor(path, parent) {
    this.path = path;
    this.parent = parent;
    this.name = path === "/" ? "/" : path.slice(path.lastIndexOf("/") + 1);
    this.depth = parent ? parent.depth + 1 : 0;
    this.children = [];
    this.open = true;
    this.now = {};
    this.lines = Object.fromEntries(MEASURES.map((m) => [m, new Float64Array(KEPT).fill(NaN)]));
  }
}

const sum = (devices, key) => Object.values(devices).reduce((all, d) => all + (d[key] ?? NaN), 0);

// One controller's node as the measures that it has.
export function measures(controller, node) {
  const value = node.value ?? {};
  const out = {};
  if (controller === "cpu" || controller === "cpuacct") out.cpu = value.usage === undefined ? NaN : value.usage / 1e9;
  else if (controller === "memory") out.memory = value.current ?? NaN;
  else if (controller === "pids") out.pids = value.current ?? NaN;
  else if (controller === "io" || controller === "blkio") {
    out.read = sum(value, "Read");
    out.written = sum(value, "Write");
    out.io = out.read + out.written;
  }
  if (node.pressure?.some) out.pressure = node.pressure.some.avg10;
  return out;
}

export class Model {
  constructor() {
    this.groups = new Map();
    this.newest = 0;
    this.shape = 0; // changes when groups come or go
    this.controllers = [];
  }

  get root() {
    return this.groups.get("/");
  }

  take(slot, value) {
    const at = slot % KEPT;
    const live = slot > this.newest;
    if (live) {
      for (const group of this.groups.values()) {
        group.now = {};
        // Seconds without a slot are gaps, not old values.
        for (let s = Math.max(this.newest + 1, slot - KEPT + 1); s <= slot; s++) {
          for (const m of MEASURES) group.lines[m][s % KEPT] = NaN;
        }
      }
      this.newest = slot;
      this.controllers = Object.keys(value);
    } else if (slot <= this.newest - KEPT) return;
    const seen = live ? new Set() : null;
    for (const [controller, node] of Object.entries(value)) this.walk(controller, node, "/", null, at, live, seen);
    if (live && seen.size !== this.groups.size) this.forget(seen);
  }

  walk(controller, node, path, parent, at, live, seen) {
    let group = this.groups.get(path);
    if (!group) {
      if (!live) return;
      group = new Group(path, parent);
      parent?.children.push(group);
      this.groups.set(path, group);
      this.shape++;
    }
    seen?.add(path);
    for (const [key, number] of Object.entries(measures(controller, node))) {
      const worst = key === "pressure" ? Math.max(number, live ? group.now.pressure ?? 0 : 0) : number;
      if (live) group.now[key] = worst;
      if (group.lines[key]) group.lines[key][at] = worst;
    }
    for (const [name, child] of Object.entries(node.sub_cgroup ?? {})) {
      this.walk(controller, child, path === "/" ? `/${name}` : `${path}/${name}`, group, at, live, seen);
    }
  }

  forget(seen) {
    for (const [path, group] of this.groups) {
      if (seen.has(path)) continue;
      this.groups.delete(path);
      if (group.parent) group.parent.children = group.parent.children.filter((g) => g !== group);
      this.shape++;
    }
  }

  // What is to be seen, in order.
  visible({ filter, flat, sort, falling }) {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const hit = (g) => words.every((w) => g.path.toLowerCase().includes(w));
    const key = (g) => (sort === "name" ? g.path : g.now[sort]);
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      const [noX, noY] = [x === undefined || Number.isNaN(x), y === undefined || Number.isNaN(y)];
      if (noX || noY) return noX - noY || (a.path < b.path ? -1 : 1);
      if (x === y) return a.path < b.path ? -1 : 1;
      return (x < y ? -1 : 1) * (falling ? -1 : 1);
    };
    if (flat) return [...this.groups.values()].filter(hit).sort(order);
    const out = [];
    const wanted = words.length ? new Set() : null;
    if (wanted) {
      for (const g of this.groups.values()) {
        if (hit(g)) for (let at = g; at && !wanted.has(at); at = at.parent) wanted.add(at);
      }
    }
    const put = (group) => {
      if (wanted && !wanted.has(group)) return;
      out.push(group);
      if (group.open || wanted) [...group.children].sort(order).forEach(put);
    };
    if (this.root) put(this.root);
    return out;
  }
}
