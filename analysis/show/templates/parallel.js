// One line per model through its parameters, cost and accuracy; a range on an axis keeps the models inside.
const P = {axes: [], lines: []};

function drawParallel(rows, front, colours) {
  const box = $('plot-parallel');
  box.style.minWidth = Math.max(260, 62 * D.parallel.length) + 'px';
  const d = drawing(box, 300, 'One line per model through its parameters, MACs and accuracy'),
    top = 46, bottom = d.height - 40, nowhere = d.height - 12,
    step = (d.width - 90) / Math.max(1, D.parallel.length - 1);
  let gaps = 0;
  P.axes = D.parallel.map((p, i) => {
    const numbers = p.values ? [] : D.trials.map(r => valueOf(r, p.name)).filter(v => !missing(v)),
      [low, high] = p.values ? [0, Math.max(1, p.values.length - 1)] : [Math.min(...numbers), Math.max(...numbers)],
      at = scale(low, high > low ? high : low + 1, bottom, top),
      raw = r => {
        const v = valueOf(r, p.name);
        return missing(v) ? null : p.values ? p.values.indexOf(String(v)) : v;
      };
    const different = [...new Set(numbers)].sort((a, b) => a - b),
      marks = different.length <= 8 ? different : p.name === 'macs' ? [low, high] : ticks(low, high, 4);
    return {...p, at, raw, marks, x: 45 + i * step, y: r => {
      const v = raw(r);
      return v === null || v < 0 ? nowhere : at(v);
    }};
  });
  if (!D.trials.length) return;
  // A line does not change with what is shown, only with the room.
  if (P.room !== d.width) [P.room, P.known] = [d.width, new Map(D.trials.map(r => [r, line(P.axes.map(a => [a.x, a.y(r)]))]))];
  const path = r => P.known.get(r),
    active = new Set(rows),
    best = new Set(front);
  d.add('path', {class: 'run off', d: D.trials.filter(r => !active.has(r)).map(path).join('')});
  for (const faint of [true, false]) {
    for (const [name, list] of grouped(rows.filter(r => best.has(r) !== faint), colours)) {
      d.add('path', {class: 'run ' + (faint ? (rows.length > 300 ? 'thin ' : '') : 'best ') + name, d: list.map(path).join('')});
    }
  }
  for (const r of D.trials.filter(r => r.chosen)) d.add('path', {class: 'run picked', d: path(r)});
  P.mark = d.add('path', {class: 'run selected'});
  P.root = d.root;
  for (const [i, a] of P.axes.entries()) drawAxis(d, a, i, top, bottom);
  for (const a of P.axes) {
    const none = D.trials.filter(r => a.raw(r) === null).length;
    if (none) d.add('text', {class: 'num', x: a.x, y: nowhere + 10, 'text-anchor': 'middle'}, 'none');
    gaps += none ? 1 : 0;
  }
  markLine();
  const more = D.varying.length - D.parallel.filter(p => D.varying.includes(p.name)).length;
  $('parallel-notes').textContent = [
    more > 0 ? many(more, 'more parameter') + ' without an axis here: ' + D.varying.slice(-more).join(', ') + '.' : '',
    gaps ? 'Lines that end below an axis have no value there.' : ''
  ].filter(Boolean).join(' ');
}

function drawAxis(d, a, i, top, bottom) {
  const brush = S.brush['axis ' + a.name],
    end = i === P.axes.length - 1 ? 'end' : i === 0 ? 'start' : 'middle',
    shift = end === 'start' ? -40 : end === 'end' ? 40 : 0,
    short = a.label.length > 12 ? a.label.slice(0, 11) + '\u2026' : a.label;
  d.add('path', {class: 'pole', d: 'M' + a.x + ',' + top + 'V' + bottom});
  d.add('text', {class: 'axis', x: a.x + shift, y: i % 2 ? 12 : 26, 'text-anchor': end}, short, svg('title', {}, a.label));
  const marks = a.values ? a.values.map((words, at) => [at, words.length > 12 ? words.slice(0, 11) + '\u2026' : words])
    : a.marks.map(v => [v, show(a.name, v)]);
  const last = i === P.axes.length - 1;
  for (const [at, words] of marks.slice(0, 12)) d.add('text', {class: 'num halo', x: last ? a.x - 5 : a.x + 5, y: a.at(at) + 4, 'text-anchor': last ? 'end' : 'start'}, words);
  if (brush) d.add('rect', {class: 'brush', x: a.x - 6, width: 12, y: a.at(brush.range[1]), height: Math.max(3, a.at(brush.range[0]) - a.at(brush.range[1]))});
  const grip = d.add('rect', {
    class: 'grip', x: a.x - 15, width: 30, y: top - 8, height: bottom - top + 16, tabindex: 0, role: 'slider', 'data-axis': a.name,
    'aria-label': a.label + ': arrow keys move the lower end of the range, with Shift the upper, Escape clears',
    'aria-valuemin': a.at.low, 'aria-valuemax': a.at.high, 'aria-valuenow': brush ? brush.range[0] : a.at.low,
    'aria-valuetext': brush ? brush.words : 'everything'
  });
  grip.onpointerdown = event => dragAxis(event, a, grip);
  grip.onkeydown = event => keyAxis(event, a, brush);
}

function keepRange(a, low, high) {
  const words = v => a.values ? a.values[Math.min(Math.max(Math.round(v), 0), a.values.length - 1)] : show(a.name, v),
    first = a.values ? Math.ceil(low) : low,
    last = a.values ? Math.floor(high) : high;
  S.brush['axis ' + a.name] = {
    range: [low, high],
    words: a.label + ' ' + (first >= last ? words(first) : words(first) + ' to ' + words(last)),
    keeps: r => {
      const v = a.raw(r);
      return v !== null && v >= low && v <= high;
    }
  };
}

function dragAxis(event, a, grip) {
  if (event.button) return;
  event.preventDefault();
  grip.focus({preventScroll: true});
  const from = placeIn(P.root, event)[1],
    root = P.root.parentNode;
  let moved = false;
  root.setPointerCapture(event.pointerId);
  root.onpointermove = move => {
    const to = placeIn(P.root, move)[1];
    moved ||= Math.abs(to - from) > 3;
    if (!moved) return;
    const range = [from, to].sort((p, q) => q - p).map(a.at.back);
    keepRange(a, Math.max(range[0], a.at.low), Math.min(range[1], a.at.high));
    update();
  };
  root.onpointerup = root.onpointercancel = () => {
    root.onpointermove = hoverParallel;
    root.onpointerup = clickParallel;
    root.onpointercancel = null;
    if (moved) return;
    delete S.brush['axis ' + a.name];
    update();
  };
}

function keyAxis(event, a, brush) {
  const way = {ArrowUp: 1, ArrowDown: -1}[event.key];
  if (event.key === 'Escape' || event.key === 'Delete') delete S.brush['axis ' + a.name];
  else if (way) {
    const step = a.values ? 1 : (a.at.high - a.at.low) / 20,
      [low, high] = brush ? brush.range : [a.at.low, a.at.high],
      within = v => Math.min(Math.max(v, a.at.low), a.at.high);
    if (event.shiftKey) keepRange(a, low, Math.max(low, within(high + way * step)));
    else keepRange(a, Math.min(high, within(low + way * step)), high);
  } else return;
  event.preventDefault();
  focusAxis(a.name);
}

// The axes are drawn anew with every change: the one that had the keyboard keeps it.
function focusAxis(name) {
  redraw();
  const grip = [...document.querySelectorAll('.grip')].find(g => g.dataset.axis === name);
  if (grip) grip.focus({preventScroll: true});
}

function lineAt(event) {
  if (!P.root || P.axes.length < 2) return null;
  const [x, y] = placeIn(P.root, event),
    i = Math.min(Math.max(P.axes.findIndex(a => a.x > x) - 1, 0), P.axes.length - 2),
    [a, b] = [P.axes[i], P.axes[i + 1]],
    share = Math.min(Math.max((x - a.x) / (b.x - a.x), 0), 1);
  const found = nearest(shownRows.map(r => ({r, x, y: a.y(r) + share * (b.y(r) - a.y(r))})), x, y, 8);
  return found && found.r;
}

function hoverParallel(event) {
  const r = lineAt(event);
  if (r) tip(event, wordsOf(r));
  else untip();
}
function clickParallel(event) {
  const r = lineAt(event);
  if (r) select(r.key);
}

function markLine() {
  const r = byKey.get(S.selected);
  if (P.mark) P.mark.setAttribute('d', r && r.kind !== 'baseline' ? line(P.axes.map(a => [a.x, a.y(r)])) : '');
}

function wireParallel() {
  const box = $('plot-parallel');
  box.onpointermove = hoverParallel;
  box.onpointerup = clickParallel;
  box.onpointerleave = untip;
}
