'use strict';
// Elements, numbers as text, scales and axes. Text only ever enters the page as text, never as HTML.
const D = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const SVG = 'http://www.w3.org/2000/svg';
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const missing = v => v === null || v === undefined || Number.isNaN(v);
const fix = (v, d) => missing(v) ? '-' : Number(v).toFixed(d);
function count(v) {
  if (missing(v)) return '-';
  // As analysis.text.count: what rounds to a thousand has the next prefix, or it would be 1.00e+3.
  const [size, prefix] = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']].find(([s]) => Math.abs(v) >= .9995 * s) || [1, ''];
  return size === 1 ? String(+Number(v).toPrecision(4)) : (v / size).toPrecision(3) + prefix;
}
const show = (name, v) => missing(v) ? '-'
  : name === 'macs' || name === 'params' ? count(v)
  : typeof v === 'number' ? String(+v.toPrecision(4))
  : String(v);
// A measured value with its unit: shares in per cent, a yes or no as such.
const WITH_UNIT = {
  '%': v => fix(v, 2) + ' %',
  points: v => fix(v, 2) + ' points',
  share: v => fix(100 * v, 1) + ' %',
  x: v => fix(v, 2) + 'x',
  '0 or 1': v => v ? 'yes' : 'no'
};
function quantity({name, unit}, v) {
  if (missing(v)) return '-';
  if (unit in WITH_UNIT) return WITH_UNIT[unit](v);
  return name === 'macs' || name === 'params' || name === 'epochs' ? show(name, v) : show(name, v) + ' ' + unit;
}
const many = (n, word) => n + ' ' + word + (n === 1 ? '' : 's');

// Round numbers between low and high, about so many.
function ticks(low, high, about) {
  const span = (high - low) || Math.abs(high) || 1,
    raw = span / Math.max(1, about),
    power = 10 ** Math.floor(Math.log10(raw)),
    step = power * ([1, 2, 5, 10].find(f => f * power >= raw) || 10),
    first = Math.ceil(low / step - 1e-9),
    length = Math.max(0, Math.floor((high + 1e-9 * span) / step) - first + 1);
  return Array.from({length}, (_, i) => +((first + i) * step).toPrecision(12));
}

// A linear scale: value -> pixel, with .back the other way.
function scale(low, high, from, to) {
  const span = (high - low) || 1,
    at = v => from + (v - low) / span * (to - from);
  at.back = pixel => low + (pixel - from) / ((to - from) || 1) * span;
  at.low = low;
  at.high = high;
  return at;
}

// The same on a logarithmic axis; low is above 0.
function logScale(low, high, from, to) {
  const inner = scale(Math.log10(low), Math.log10(high), from, to),
    at = v => inner(Math.log10(Math.max(v, low)));
  at.back = pixel => 10 ** inner.back(pixel);
  at.low = low;
  at.high = high;
  return at;
}
// 1, 2, 5, 10, 20, ... between low and high, without the 5s and then the 2s where room is short.
function logTicks(low, high, most) {
  const first = Math.floor(Math.log10(low)),
    powers = Array.from({length: Math.floor(Math.log10(high)) - first + 1}, (_, i) => 10 ** (first + i));
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const inside = powers.flatMap(power => steps.map(s => +(s * power).toPrecision(6))).filter(v => v >= low && v <= high);
    if (inside.length <= most || steps.length === 1) return inside;
  }
}

// An empty drawing of a box's own width; words are what a reader hears of it.
function drawing(box, height, words) {
  const width = Math.max(box.clientWidth, 280),
    root = svg('svg', {viewBox: '0 0 ' + width + ' ' + height, width, height, role: 'img', 'aria-label': words});
  box.replaceChildren(root);
  return {root, width, height, add: (tag, attributes, ...children) => {
    const node = svg(tag, attributes, ...children);
    root.append(node);
    return node;
  }};
}

// Grid lines with numbers: below for x, on the left for y.
function axisX(d, at, values, words, y0, y1, title) {
  for (const v of values) {
    d.add('path', {class: 'grid', d: 'M' + at(v) + ',' + y0 + 'V' + y1});
    d.add('text', {class: 'num', x: at(v), y: y1 + 16, 'text-anchor': 'middle'}, words(v));
  }
  if (title) d.add('text', {class: 'axis', x: at(at.high), y: y1 + 34, 'text-anchor': 'end'}, title);
}
function axisY(d, at, values, words, x0, x1, title, top) {
  for (const v of values) {
    d.add('path', {class: 'grid', d: 'M' + x0 + ',' + at(v) + 'H' + x1});
    d.add('text', {class: 'num', x: x0 - 6, y: at(v) + 4, 'text-anchor': 'end'}, words(v));
  }
  if (title) d.add('text', {class: 'axis', x: 2, y: top}, title);
}

// Many round points in one element: a line of no length with a round end.
const dots = points => points.map(([x, y]) => 'M' + x.toFixed(1) + ',' + y.toFixed(1) + 'h0').join('');
const line = points => points.map(([x, y], i) => (i ? 'L' : 'M') + x.toFixed(1) + ',' + y.toFixed(1)).join('');
// The best so far: level until the next point, then a step.
const stairs = points => points.map(([x, y], i) => i ? 'H' + x.toFixed(1) + 'V' + y.toFixed(1)
  : 'M' + x.toFixed(1) + ',' + y.toFixed(1)).join('');
const star = (x, y, r) => 'M' + Array.from({length: 10}, (_, i) => {
  const a = Math.PI * (i / 5 - .5),
    s = i % 2 ? r * .42 : r;
  return (x + s * Math.cos(a)).toFixed(1) + ',' + (y + s * Math.sin(a)).toFixed(1);
}).join('L') + 'Z';

// The words beside the pointer.
function tip(event, lines) {
  const box = $('tip');
  box.replaceChildren(...lines.map((words, i) => el(i ? 'div' : 'b', {}, words)));
  box.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8),
    top = event.clientY + 14 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : event.clientY + 14;
  box.style.left = Math.max(4, left) + 'px';
  box.style.top = Math.max(4, top) + 'px';
}
const untip = () => { $('tip').hidden = true; };

// The item of [{x, y, ...}] that is nearest to a pixel, within a reach.
function nearest(items, x, y, reach) {
  let best = null,
    least = reach * reach;
  for (const item of items) {
    const far = (item.x - x) ** 2 + (item.y - y) ** 2;
    if (far < least) [best, least] = [item, far];
  }
  return best;
}
function placeIn(root, event) {
  const box = root.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}
