// Numbers and times for people, and elements without innerHTML: names come from documents.

const UNITS = ["", "K", "M", "G", "T", "P"];

export function bytes(n) {
  if (n === undefined || Number.isNaN(n)) return "–";
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit++;
  }
  return `${unit === 0 ? Math.round(n) : n.toFixed(n < 10 ? 2 : n < 100 ? 1 : 0)} ${UNITS[unit]}B`;
}

export const number = (n, digits) => (n === undefined || Number.isNaN(n) ? "–" : n.toFixed(digits));

export const SHOWN = {
  cpu: (n) => number(n, n < 10 ? 2 : 1),
  memory: bytes,
  io: (n) => (n === undefined || Number.isNaN(n) ? "–" : `${bytes(n)}/s`),
  pids: (n) => number(n, 0),
  pressure: (n) => (n === undefined || Number.isNaN(n) ? "–" : `${n.toFixed(1)} %`),
};

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}
