// Accuracy and MACs over the epochs, layer widths side by side, and the growth of the front.
const C = {spots: []};

const idOf = course => course.sweep + '/' + course.trial;

function courseNames() {
  const chosen = D.trials.find(r => r.chosen),
    options = D.courses.map(c => el('option', {value: idOf(c)}, c.trial + (D.sweeps > 1 ? ' of ' + c.sweep : '') + (c.kind === 'baseline' ? ' (baseline)' : '')));
  $('f-course').replaceChildren(...options);
  const wanted = chosen && D.courses.find(c => c.trial === chosen.trial && c.sweep === chosen.sweep);
  if (wanted || D.courses.length) $('f-course').value = idOf(wanted || D.courses.find(c => c.kind !== 'baseline') || D.courses[0]);
}

function drawCourses(colours) {
  if (!D.courses.length) {
    $('courses-notes').textContent = 'No epochs were recorded where this page looks: neither in the folder of the sweep nor in a manifest.';
    $('plot-courses').replaceChildren();
    return;
  }
  const d = drawing($('plot-courses'), 470, 'Validation accuracy and MACs over the epochs'),
    narrow = d.width < 560,
    front = D.courses.find(c => idOf(c) === $('f-course').value) || D.courses[0],
    left = 48, right = d.width - 14, top = 26, middle = 278, second = 318, bottom = d.height - 44,
    last = Math.max(...D.courses.map(c => c.epochs[c.epochs.length - 1])),
    finals = D.trials.concat(D.baselines).map(r => r.val_accuracy).filter(v => !missing(v)),
    every = D.courses.flatMap(c => c.accuracy).filter(v => v !== null).concat(finals),
    high = Math.max(...every),
    own = front.accuracy.filter(v => v !== null),
    low = $('f-early').checked || !finals.length ? Math.min(...every) : Math.max(Math.min(...every), Math.min(...finals.filter(v => v > high - 30), ...own.slice(2).filter(v => v > high - 30)) - 1),
    atX = scale(0, last, left, right),
    atY = scale(low, high + .02 * (high - low || 1), middle, top),
    most = Math.max(...D.courses.flatMap(c => c.macs).filter(v => v !== null), 1),
    atM = scale(0, most * 1.02, bottom, second);
  axisY(d, atY, ticks(low, high, 6), v => String(v), left, right, '\u2191 better   Validation accuracy (%)', 12);
  axisY(d, atM, ticks(0, most, 4), count, left, right, 'MACs per image', second - 10);
  axisX(d, atX, ticks(0, last, narrow ? 5 : 10), v => String(v), bottom, bottom, 'epoch');
  const clip = svg('clipPath', {id: 'upper'}, svg('rect', {x: left, y: top - 6, width: right - left + 8, height: middle - top + 6}));
  d.root.prepend(svg('defs', {}, clip));
  const models = new Map();
  for (const r of D.trials.concat(D.baselines)) {
    const id = r.sweep + '/' + r.trial;
    if (!models.has(id)) models.set(id, []);
    models.get(id).push(r);
  }
  const of = c => models.get(idOf(c)) || [],
    colourOf = c => of(c).length ? colours.of(of(c)[0]) : '';
  const others = D.courses.filter(c => c !== front);
  for (const [name, list] of grouped(others, {of: c => 'back ' + (c.kind === 'baseline' ? 'of-base' : colourOf(c))})) {
    drawCourse(d, list, atX, atY, atM, name);
  }
  drawEvents(d, front, atX, atM, top, bottom);
  drawCourse(d, [front], atX, atY, atM, 'fore');
  C.spots = [];
  for (const c of [...D.courses.filter(c => c !== front), front]) {
    const spots = of(c).filter(r => missing(r.polish) && !missing(r.epochs) && r.epochs <= last).map(r => ({r, x: atX(r.epochs), y: Math.min(atY(r.val_accuracy), middle + 5)}));
    C.spots.push(...spots);
    d.add('path', {class: 'dot ' + (c === front ? 'best' : 'back'), d: dots(spots.map(s => [s.x, s.y]))});
    if (c === front) for (const s of spots.filter(s => !missing(s.r.level))) d.add('text', {class: 'num halo', x: s.x, y: s.y - 9, 'text-anchor': 'middle'}, '@' + s.r.level);
  }
  for (const s of C.spots.filter(s => s.r.chosen)) d.add('circle', {class: 'chosen', r: 9, cx: s.x, cy: s.y});
  C.root = d.root;
  const under = every.filter(v => v < low).length,
    read = new Set(D.courses.map(idOf)),
    unread = new Set(D.trials.map(r => r.sweep + '/' + r.trial).filter(id => !read.has(id))).size;
  $('courses-notes').textContent = [
    under ? many(under, 'value') + ' below this view, down to ' + fix(Math.min(...every), 1) + ' %.' : '',
    unread ? many(unread, 'trial') + ' without recorded epochs, or beyond the ' + D.courses.length + ' that are drawn.' : '',
    'In the foreground: ' + front.trial + '.'
  ].filter(Boolean).join(' ');
}

// The courses of one look, in two elements: accuracy above, MACs below.
function drawCourse(d, courses, atX, atY, atM, name) {
  const points = c => c.epochs.map((e, i) => [e, c.accuracy[i]]).filter(([, v]) => v !== null).map(([e, v]) => [atX(e), atY(v)]);
  d.add('path', {class: 'course ' + name, d: courses.map(c => line(points(c))).join(''), 'clip-path': 'url(#upper)'});
  // The MACs of an epoch hold from its beginning to its end.
  const steps = c => c.epochs.map((e, i) => [e, c.macs[i]]).filter(([, v]) => v !== null)
    .map(([e, v], i) => (i ? '' : 'M' + atX(e - 1).toFixed(1) + ',' + atM(v).toFixed(1)) + 'V' + atM(v).toFixed(1) + 'H' + atX(e).toFixed(1)).join('');
  d.add('path', {class: 'course ' + name, d: courses.map(steps).join('')});
}

function eventsOf(c) {
  return c.epochs.map((e, i) => ({after: e - 1, from: c.macs[i - 1], to: c.macs[i]})).filter((e, i) => i && e.from !== null && e.to !== null && e.to < e.from);
}

function drawEvents(d, c, atX, atM, top, bottom) {
  const events = eventsOf(c),
    wide = (atX.high ? (atX(atX.high) - atX(0)) / atX.high : 0) * (events.length > 1 ? (events[events.length - 1].after - events[0].after) / (events.length - 1) : 9);
  for (const e of events) {
    d.add('path', {class: 'event', d: 'M' + atX(e.after) + ',' + top + 'V' + bottom});
    if (wide > 34) d.add('text', {class: 'num halo', x: atX(e.after) + 4, y: atM(e.from) - 4}, '\u2212' + fix(100 * (1 - e.to / e.from), 0) + ' %');
  }
}

function wireCourses() {
  const box = $('plot-courses'),
    at = event => C.root ? nearest(C.spots, ...placeIn(C.root, event), 14) : null;
  box.onpointermove = event => {
    const found = at(event);
    if (found) tip(event, [...wordsOf(found.r), 'after epoch ' + found.r.epochs]);
    else untip();
  };
  box.onpointerleave = untip;
  box.onclick = event => {
    const found = at(event);
    if (found) select(found.r.key);
  };
}

// Up to four models side by side.
function toggleCompared(key) {
  S.compared = S.compared.includes(key) ? S.compared.filter(k => k !== key) : S.compared.concat(key).slice(-4);
  drawWidths();
  const r = byKey.get(S.selected);
  if (r) detail(r);
}

function firstCompared(front) {
  const has = r => r && r.key in D.widths.of,
    chosen = D.trials.find(r => r.chosen),
    sorted = front.filter(r => has(r) && r !== chosen).sort((a, b) => a.macs - b.macs),
    cheaper = chosen ? sorted.filter(r => r.macs < chosen.macs).slice(-1) : sorted.slice(0, 1),
    dearer = sorted.filter(r => !chosen || r.macs > chosen.macs).slice(chosen ? 0 : -1, chosen ? 1 : undefined);
  S.compared = [...new Set([...cheaper, ...(has(chosen) ? [chosen] : []), ...dearer].map(r => r.key))];
}

function drawWidths() {
  const layers = D.widths.layers,
    rows = S.compared.map(key => byKey.get(key)).filter(Boolean);
  if (!layers.length) {
    $('compared').replaceChildren();
    $('plot-widths').replaceChildren(el('p', {class: 'soft'}, 'Layer widths are not available: ' + (D.widths.missing || 'no model is finished') + '.'));
    return;
  }
  const others = Object.keys(D.widths.of).filter(key => !S.compared.includes(key)).map(key => byKey.get(key)).filter(Boolean).sort((a, b) => b.macs - a.macs);
  const add = el('select', {'aria-label': 'add a model', disabled: rows.length >= 4}, el('option', {value: ''}, rows.length >= 4 ? 'four at most' : 'add a model'),
    ...others.map(r => el('option', {value: r.key}, nameOf(r) + ' (' + fix(r.val_accuracy, 1) + ' %, ' + count(r.macs) + ' MACs)')));
  add.onchange = () => { if (add.value) toggleCompared(add.value); };
  $('compared').replaceChildren(...rows.map((r, i) => el('button', {type: 'button', class: 'chip c' + i, title: 'take out', onclick: () => toggleCompared(r.key)}, nameOf(r) + ' \u00d7')), add);
  const cell = (layer, r, i) => {
    const left = D.widths.of[r.key][layer.layer] ?? layer.before,
      share = 100 * left / layer.before;
    return el('td', {class: 'n'}, el('span', {}, String(left)), el('span', {class: 'soft'}, ' ' + fix(share, 0) + ' %'),
      el('div', {class: 'bar c' + i}, el('span', {style: 'width:' + share.toFixed(1) + '%'})));
  };
  $('plot-widths').replaceChildren(el('table', {class: 'widths'},
    el('thead', {}, el('tr', {}, el('th', {}, 'layer'), el('th', {class: 'n'}, 'unpruned'), ...rows.map(r => el('th', {class: 'n'}, nameOf(r), el('div', {class: 'soft'}, fix(r.val_accuracy, 1) + ' %, ' + count(r.macs) + ' MACs'))))),
    el('tbody', {}, ...layers.map(layer => el('tr', {}, el('th', {scope: 'row'}, layer.layer), el('td', {class: 'n'}, String(layer.before)), ...rows.map((r, i) => cell(layer, r, i)))))));
}

function drawProgress() {
  const by = $('p-by').value,
    x = D.progress[by] || [],
    y = D.progress.hypervolume || [];
  if (!x.length) {
    $('plot-progress').replaceChildren(el('p', {class: 'soft'}, 'No model is finished yet.'));
    return;
  }
  const d = drawing($('plot-progress'), 240, 'Hypervolume of the front as it grew'),
    atX = scale(0, Math.max(...x) || 1, 48, d.width - 14),
    atY = scale(0, Math.max(...y) * 1.05 || 1, d.height - 44, 26);
  axisX(d, atX, ticks(0, atX.high, d.width < 560 ? 4 : 8), v => String(v), 26, d.height - 44, by === 'trials' ? 'finished ' + D.word + 's' : 'device hours spent');
  axisY(d, atY, ticks(0, atY.high, 4), v => String(v), 48, d.width - 14, '\u2191 better   hypervolume', 12);
  d.add('path', {class: 'steps', d: 'M' + atX(x[0]) + ',' + atY(0) + x.map((v, i) => 'H' + atX(v) + 'V' + atY(y[i])).join('')});
}
