// Accuracy against cost: every model, the front with its intervals, the baseline, the choice.
const F = {points: [], front: []};

function drawFront(rows, front, colours) {
  const x = $('f-x').value,
    axis = D.axes.find(a => a.name === x),
    box = $('plot-front'),
    narrow = box.clientWidth < 560,
    d = drawing(box, narrow ? 350 : 400, 'Validation accuracy against ' + axis.label),
    has = r => !missing(r[x]) && !missing(r.val_accuracy),
    all = D.trials.filter(has),
    bases = D.baselines.filter(has),
    whole = wholeFront(all, x),
    chosen = all.filter(r => r.chosen);
  const left = 48, right = d.width - 14, top = 26, bottom = d.height - 44;
  if (!all.length) {
    d.add('text', {x: d.width / 2, y: d.height / 2, 'text-anchor': 'middle', class: 'axis'}, 'No model is finished yet.');
    if (!bases.length) return;
  }
  const lows = r => r.val_accuracy_low ?? r.val_accuracy,
    highs = r => r.val_accuracy_high ?? r.val_accuracy,
    seen = $('f-whole').checked ? all.concat(bases) : whole.concat(bases, chosen),
    best = Math.max(...seen.map(r => r.val_accuracy)),
    floor = $('f-whole').checked ? -Infinity : Math.min(best - 15, ...chosen.map(lows), ...bases.map(lows)),
    high = Math.max(...seen.map(highs), missing(D.limit) ? -Infinity : D.limit),
    lowest = Math.max(floor, Math.min(...seen.map(lows), missing(D.limit) ? Infinity : D.limit)),
    pad = Math.max(.06 * (high - lowest), .3),
    low = withBars(lowest, pad, seen, lows),
    costs = all.concat(bases).map(r => r[x]),
    log = $('f-log').checked && Math.min(...costs) > 0,
    atX = log ? logScale(Math.min(...costs) / 1.25, 1.1 * Math.max(...costs), left, right) : scale(0, 1.03 * Math.max(...costs), left, right),
    marksX = log ? logTicks(atX.low, atX.high, narrow ? 5 : 9) : ticks(0, atX.high, narrow ? 4 : 7),
    atY = scale(low - pad, Math.min(high + pad, 100 + pad), bottom, top);
  axisX(d, atX, marksX, v => x === 'latency_ms' ? String(v) : count(v), top, bottom, '\u2190 better \u00b7 ' + axis.label + (log ? ', logarithmic' : ''));
  axisY(d, atY, ticks(atY.low, Math.min(atY.high, 100), 6), v => String(v), left, right, 'better \u2191 \u00b7 Validation accuracy (%)', 12);
  const limits = D.limits.filter(l => l.column === x || l.column === 'val_accuracy').map(l => ({...l, upright: l.column === x}));
  if (!missing(D.limit) && !D.asked) limits.push({value: D.limit, words: 'limit ' + fix(D.limit, 2) + ' %', upright: false});
  for (const l of limits) drawLimit(d, l, atX, atY, [left, right, top, bottom]);
  const spot = r => [atX(r[x]), Math.min(atY(Math.max(r.val_accuracy, -1e9)), bottom - 5)],
    below = r => atY(r.val_accuracy) > bottom - 1;
  F.points = all.concat(bases).map(r => {
    const [px, py] = spot(r);
    return {r, x: px, y: py};
  });
  F.front = [...front].filter(has).sort((a, b) => a[x] - b[x]);
  F.scales = {x, atX, atY, root: d.root, area: [left, right, top, bottom]};
  d.add('path', {class: 'trail', d: trails(all, spot)});
  const active = new Set(rows),
    inFront = new Set(F.front);
  d.add('path', {class: 'dot off', d: dots(all.filter(r => !active.has(r) && !below(r)).map(spot))});
  for (const [name, list] of grouped(rows.filter(r => has(r) && !inFront.has(r) && !below(r)), colours)) {
    d.add('path', {class: 'dot ' + name, d: dots(list.map(spot))});
  }
  const fallen = all.filter(below);
  d.add('path', {class: 'fallen', d: fallen.map(r => 'M' + (spot(r)[0] - 4) + ',' + (bottom - 9) + 'l8,0l-4,7Z').join('')});
  const two = [{name: x, better: 'min'}, {name: 'val_accuracy', better: 'max'}],
    same = D.views[x].length === 2,
    steps = list => stairs([...list].sort((a, b) => a[x] - b[x]).map(spot));
  if (rows.length < all.length) d.add('path', {class: 'steps ghost', d: steps(same ? whole : frontOf(all, two))});
  d.add('path', {class: 'steps', d: steps(same ? F.front : frontOf(rows.filter(has), two))});
  d.add('path', {class: 'bars', d: F.front.filter(r => known(r) && !below(r)).map(r => {
    const at = atX(r[x]), a = atY(lows(r)), b = atY(highs(r));
    return 'M' + (at - 3) + ',' + b + 'h6m-3,0V' + (a > bottom ? bottom : a + 'm-3,0h6');
  }).join('')});
  for (const [name, list] of grouped(F.front.filter(r => !below(r)), colours)) {
    d.add('path', {class: 'dot best ' + name, d: dots(list.map(spot))});
  }
  for (const r of bases) d.add('path', {class: 'base', d: star(...spot(r), 9)});
  if (bases.length) {
    const r = bases[0], [bx, by] = spot(r), beside = bx > d.width - 90;
    d.add('text', {class: 'name base-name', x: beside ? bx : bx + 12, y: by - 14, 'text-anchor': beside ? 'end' : 'start'}, 'baseline');
  }
  const taken = covered(F.front, spot, atY, lows, highs),
    other = compared();
  for (const r of chosen) mark(d, 'chosen', r, spot(r), taken);
  if (other && has(other) && !below(other)) mark(d, 'compared', other, spot(other), taken);
  F.ring = d.add('circle', {class: 'ring', r: 9, cx: -50, cy: -50});
  F.drag = d.add('rect', {class: 'drag', width: 0, height: 0});
  markSelected();
  const without = D.trials.length - all.length;
  $('front-notes').textContent = [
    fallen.length ? '\u25bd ' + many(fallen.length, D.word) + ' below this view, down to ' + fix(Math.min(...fallen.map(r => r.val_accuracy)), 1) + ' %.' : '',
    without ? many(without, D.word) + ' without this cost, so not in this picture.' : '',
    F.front.some(known) ? 'Bars: 95 % intervals of the validation images.' : ''
  ].filter(Boolean).join(' ');
}

// The front of every model: it changes with the cost only, and with near-ties.
function wholeFront(all, x) {
  const id = x + $('f-ties').checked;
  if (F.whole?.id !== id) F.whole = {id, rows: frontOf(all, D.views[x])};
  return F.whole.rows;
}

// Where the front lies in a corner of a linear axis, one begins with a logarithmic one.
function wantsLog() {
  const name = $('f-x').value,
    costs = D.trials.map(r => r[name]).filter(v => !missing(v) && v > 0);
  return costs.length > 1 && Math.max(...costs) > 8 * Math.min(...costs);
}

// A line through the snapshots of every path, in their order; polished ones are points beside it.
function trails(all, spot) {
  const paths = {};
  for (const r of all) {
    if (!missing(r.level) && missing(r.polish)) (paths[r.sweep + '/' + r.trial] ??= []).push(r);
  }
  return Object.values(paths).map(list => line(list.sort((a, b) => a.level - b.level).map(spot))).join('');
}

function grouped(rows, colours) {
  const found = new Map();
  for (const r of rows) {
    const name = colours.of(r);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(r);
  }
  return found;
}

// A limit on the cost stands upright, one on the accuracy lies.
function drawLimit(d, limit, atX, atY, [left, right, top, bottom]) {
  const at = limit.upright ? atX(limit.value) : atY(limit.value);
  if (limit.upright ? at < left || at > right : at < top || at > bottom) return;
  d.add('path', {class: 'limit', d: limit.upright ? 'M' + at + ',' + top + 'V' + bottom : 'M' + left + ',' + at + 'H' + right});
  const turned = limit.upright ? {x: at - 4, y: bottom - 6, transform: 'rotate(-90 ' + (at - 4) + ' ' + (bottom - 6) + ')'} : {x: left + 6, y: at - 4};
  d.add('text', {class: 'limit-words', ...turned}, limit.words);
}

// The model that the card compares the choice with, if its name says which one it is.
function compared() {
  const found = D.trials.filter(r => r.model === D.compared);
  return found.length === 1 ? found[0] : null;
}

// The axis reaches down to the ends of the bars of the models that it shows.
function withBars(low, pad, rows, lows) {
  const lower = found => Math.min(found, ...rows.filter(r => r.val_accuracy >= found - pad).map(lows));
  return [0, 1, 2, 3].reduce(lower, low);
}

// Numbers from one below another, so far apart.
function spaced(from, below, apart) {
  return Array.from({length: Math.max(0, Math.ceil((below - from) / apart))}, (_, i) => from + i * apart);
}

// Where a name would hide something: every point, and the bars and steps of the front as points.
function covered(front, spot, atY, lows, highs) {
  const found = F.points.map(p => [p.x, p.y]);
  front.forEach((r, i) => {
    const [x, y] = spot(r),
      end = i + 1 < front.length ? spot(front[i + 1])[0] : x;
    found.push(...spaced(atY(highs(r)), atY(lows(r)), 8).map(at => [x, at]));
    found.push(...spaced(x, end, 12).map(at => [at, y]));
  });
  return found;
}

// A ring, and the name beside it where it hides least.
function mark(d, kind, r, [x, y], taken) {
  const words = nameOf(r),
    long = 7.4 * words.length,
    [left, right, top, bottom] = F.scales.area;
  let best = null;
  for (const down of [40, -32, 60, -52, 80, -72, 20, -12, 110, -100, 140, -130]) {
    for (const side of [1, -1]) {
      const from = side > 0 ? x + 20 : x - 20 - long,
        base = y + down,
        inside = from >= left && from + long <= right && base - 12 >= top && base + 4 <= bottom,
        hits = taken.filter(p => p[0] > from - 6 && p[0] < from + long + 6 && p[1] > base - 17 && p[1] < base + 8).length,
        cost = hits + (inside ? 0 : 1000) + Math.abs(down) / 400;
      if (!best || cost < best.cost) best = {cost, from, base, side};
    }
  }
  const {from, base, side} = best,
    length = Math.hypot(20, base - 4 - y) || 1;
  d.add('circle', {class: kind, r: 9, cx: x, cy: y});
  d.add('path', {class: 'leader', d: line([[x + side * 180 / length, y + 9 * (base - 4 - y) / length], [x + side * 18, base - 4]])});
  d.add('text', {class: 'name ' + kind + '-name', x: side > 0 ? from : from + long, y: base, 'text-anchor': side > 0 ? 'start' : 'end'}, words);
  taken.push(...spaced(from, from + long + 1, 6).map(at => [at, base - 5]));
}

function markSelected() {
  const at = F.points.find(p => p.r.key === S.selected);
  if (!F.ring) return;
  F.ring.setAttribute('cx', at ? at.x : -50);
  F.ring.setAttribute('cy', at ? at.y : -50);
}

function wireFront() {
  const box = $('plot-front');
  let start = null;
  box.onpointermove = event => {
    if (!F.scales) return;
    const [x, y] = placeIn(F.scales.root, event);
    if (start) {
      const [left, right, top, bottom] = F.scales.area,
        inside = (v, a, b) => Math.min(Math.max(v, a), b),
        [x1, y1] = [inside(x, left, right), inside(y, top, bottom)];
      start.moved ||= Math.hypot(x - start.x, y - start.y) > 5;
      if (!start.moved) return;
      untip();
      for (const [name, v] of Object.entries({x: Math.min(start.x, x1), y: Math.min(start.y, y1), width: Math.abs(x1 - start.x), height: Math.abs(y1 - start.y)})) F.drag.setAttribute(name, v);
      start.end = [x1, y1];
      return;
    }
    const found = nearest(F.points, x, y, 18);
    if (found) tip(event, wordsOf(found.r));
    else untip();
  };
  box.onpointerleave = () => { if (!start) untip(); };
  box.onpointerdown = event => {
    if (event.pointerType === 'touch' || event.button || !F.scales) return;
    const [x, y] = placeIn(F.scales.root, event);
    start = {x, y, moved: false};
    box.setPointerCapture(event.pointerId);
  };
  box.onpointerup = event => {
    const from = start;
    start = null;
    if (!F.scales) return;
    if (from && from.moved) return brushFront(from);
    const [x, y] = placeIn(F.scales.root, event),
      found = nearest(F.points, x, y, 18);
    if (found) select(found.r.key);
    else if (S.brush.front) {
      delete S.brush.front;
      update();
    }
  };
  box.onpointercancel = () => { start = null; };
  box.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (event.key === 'Escape') {
      clearFilters();
      update();
    } else if (step && F.front.length) {
      event.preventDefault();
      const at = F.front.findIndex(r => r.key === S.selected);
      select(F.front[at < 0 ? 0 : Math.min(Math.max(at + step, 0), F.front.length - 1)].key);
    }
  };
}

function brushFront(from) {
  const {x, atX, atY, area} = F.scales,
    xs = [from.x, from.end[0]].sort((a, b) => a - b).map(atX.back),
    ys = [from.y, from.end[1]].sort((a, b) => b - a).map(atY.back),
    lowest = Math.max(from.y, from.end[1]) > area[3] - 2 ? -Infinity : ys[0];
  S.brush.front = {
    words: (D.axes.find(a => a.name === x) || {label: x}).label + ' ' + show(x, xs[0]) + ' to ' + show(x, xs[1]) + ', accuracy '
      + (lowest === -Infinity ? 'up' : fix(ys[0], 1)) + ' to ' + fix(ys[1], 1) + ' %',
    keeps: r => !missing(r[x]) && r[x] >= xs[0] && r[x] <= xs[1] && r.val_accuracy >= lowest && r.val_accuracy <= ys[1]
  };
  update();
}
