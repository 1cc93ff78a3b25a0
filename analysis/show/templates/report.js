const D = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);

const plain = {
  displaylogo: false,
  responsive: true,
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]
};
const bare = {...plain, modeBarButtons: [['toImage']]};
const look = {
  font: {family: 'system-ui, sans-serif', size: 13, color: '#222'},
  paper_bgcolor: '#fff',
  plot_bgcolor: '#fff',
  margin: {l: 66, r: 16, t: 16, b: 56},
  hoverlabel: {align: 'left'}
};

const fix = (v, d) => v === null || v === undefined ? '-' : Number(v).toFixed(d);
const count = v => v === null ? '-'
  : v >= 1e9 ? (v / 1e9).toPrecision(3) + ' G'
  : v >= 1e6 ? (v / 1e6).toPrecision(3) + ' M'
  : v >= 1e3 ? (v / 1e3).toPrecision(3) + ' k'
  : String(v);
const show = (name, v) => v === null || v === undefined ? '-'
  : name === 'macs' || name === 'params' ? count(v)
  : typeof v === 'number' ? String(+v.toPrecision(4))
  : String(v);
const safe = s => String(s).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

// The rows that no other is as good as in every goal {name, better} and better in one; ties stay. The best in the first
// goal comes first.
function frontOf(rows, goals) {
  const known = rows.filter(r => goals.every(g => r[g.name] !== null && r[g.name] !== undefined));
  const sorted = costsOf(known, goals).sort(([, a], [, b]) => order(a, b));
  const dominates = (a, b) => a.every((v, i) => v <= b[i]) && a.some((v, i) => v < b[i]);
  // A row is never dominated by one that is sorted after it.
  const front = [];
  for (const pair of sorted) {
    if (!front.some(([, other]) => dominates(other, pair[1]))) front.push(pair);
  }
  const best = front.map(([r]) => r);
  return $('f-ties').checked ? best : distinct(best, goals);
}

// Costs that differ by at most the share D.band count as equal (analysis.front.pareto.distinct).
function distinct(best, goals) {
  const first = goals.map((g, i) => [g, i]).sort(([a], [b]) => (a.better === 'min') - (b.better === 'min'));
  const benefitsFirst = costs => first.map(([, i]) => costs[i]);
  const sorted = costsOf(best, goals).sort(([, a], [, b]) => order(benefitsFirst(a), benefitsFirst(b)));
  const reach = costs => costs.map((v, i) => goals[i].better === 'max' ? v : v + D.band * Math.abs(v));
  const kept = [];
  for (const pair of sorted) {
    const far = reach(pair[1]);
    const close = ([, other]) => other.every((v, i) => v <= far[i]) && other.some((v, i) => v !== pair[1][i]);
    if (!D.band || !kept.some(close)) kept.push(pair);
  }
  return kept.map(([r]) => r);
}

const order = (a, b) => a.map((v, i) => v - b[i]).find(d => d !== 0) || 0;

// [row, what to make small in each goal] of every row.
function costsOf(rows, goals) {
  const latency = goals.some(g => g.name === 'latency_ms') ? settled(rows) : null;
  const value = (r, name) => name === 'latency_ms' ? latency.get(r) : r[name];
  return rows.map(r => [r, goals.map(g => g.better === 'max' ? -value(r, g.name) : value(r, g.name))]);
}

// Latencies that cannot be told apart are equal (analysis.front.objectives.settled_latency).
function settled(rows) {
  const low = r => Math.min(r.latency_ms, r.latency_low_ms ?? r.latency_ms);
  const high = r => Math.max(r.latency_ms, r.latency_high_ms ?? r.latency_ms);
  const found = new Map();
  let left = [...rows].sort((a, b) => a.latency_ms - b.latency_ms);
  while (left.length) {
    const fastest = left[0];
    for (const r of left) {
      if (low(r) <= high(fastest)) found.set(r, fastest.latency_ms);
    }
    left = left.filter(r => !found.has(r));
  }
  return found;
}

// The page's behaviour: filters -> visible trials -> front of what is visible -> plot and table.
function visible() {
  const macs = +$('f-macs').value,
    drop = +$('f-drop').value,
    name = $('f-name').value,
    want = $('f-value').value;
  $('o-macs').value = macs >= 100 ? 'any' : macs + ' %';
  $('o-drop').value = drop >= D.maxDrop ? 'any' : drop.toFixed(1);
  return D.trials.filter(r =>
    (macs >= 100 || r.macs_kept === null || 100 * r.macs_kept <= macs)
    && (drop >= D.maxDrop || r.accuracy_drop === null || r.accuracy_drop <= drop)
    && (!want || String(r.config[name]) === want));
}

const known = r => r.val_accuracy_low !== null && r.val_accuracy_low !== undefined;
const ends = r => `${fix(r.val_accuracy_low, 1)}-${fix(r.val_accuracy_high, 1)}`;
const range = r => known(r) ? `95 % interval ${ends(r)}, ` : '';

function hover(r) {
  const lines = [
    `<b>${safe(r.model)}</b>${r.sweep && D.sweeps > 1 ? ' of ' + safe(r.sweep) : ''}`,
    `${fix(r.val_accuracy, 2)} % validation accuracy (${range(r)}drop ${fix(r.accuracy_drop, 2)})`,
    `${count(r.macs)} MACs (${fix(100 * r.macs_kept, 1)} %), ${count(r.params)} parameters`
  ];
  if (r.latency_ms !== null) lines.push(`${fix(r.latency_ms, 3)} ms`);
  return lines.concat(D.varying.map(n => `${n}: ${safe(show(n, r.config[n]))}`)).join('<br>');
}

function draw() {
  const x = $('f-x').value,
    axis = D.axes.find(a => a.name === x),
    rows = visible(),
    front = frontOf(rows, D.views[x]).filter(r => r[x] !== null).sort((a, b) => a[x] - b[x]),
    best = frontOf(rows, [{name: x, better: 'min'}, {name: 'val_accuracy', better: 'max'}])
      .sort((a, b) => a[x] - b[x]);
  const inFront = new Set(front),
    rest = rows.filter(r => !inFront.has(r) && r[x] !== null);
  const cloud = (list, name, marker, more) => ({
    type: 'scatter',
    mode: 'markers',
    name,
    marker,
    x: list.map(r => r[x]),
    y: list.map(r => r.val_accuracy),
    text: list.map(hover),
    hovertemplate: '%{text}<extra></extra>',
    customdata: list.map(r => r.key),
    ...more
  });
  // The 95 % interval that the number of validation images leaves; nothing where that number is not known.
  const bars = {
    error_y: {
      type: 'data',
      symmetric: false,
      array: front.map(r => (r.val_accuracy_high ?? r.val_accuracy) - r.val_accuracy),
      arrayminus: front.map(r => r.val_accuracy - (r.val_accuracy_low ?? r.val_accuracy)),
      color: '#0072B2',
      thickness: 1,
      width: 3
    }
  };
  const line = {
    type: 'scatter',
    mode: 'lines',
    line: {shape: 'hv', color: '#0072B2', width: 2},
    hoverinfo: 'skip',
    x: best.map(r => r[x]),
    y: best.map(r => r.val_accuracy),
    showlegend: false
  };
  const traces = [
    ...paths(rows, x),
    cloud(rest, `${D.word}s (${rest.length})`, {color: '#9aa5b1', size: 7, opacity: .7}),
    line,
    cloud(front, `front of what is shown (${front.length})`, {color: '#0072B2', size: 10}, bars),
    cloud(D.baselines.filter(r => r[x] !== null), 'baseline', {color: '#D55E00', size: 17, symbol: 'star'})
  ];
  const chosen = D.trials.filter(r => r.chosen && r[x] !== null);
  if (chosen.length) traces.push(
    cloud(chosen, 'chosen', {color: 'rgba(0,0,0,0)', size: 20, line: {color: '#009E73', width: 3}}));
  const limits = D.limits.filter(l => l.column === x || l.column === 'val_accuracy');
  const shown = front.concat(D.baselines),
    lowest = Math.min(...shown.map(r => r.val_accuracy_low ?? r.val_accuracy));
  const highest = Math.max(...shown.map(r => r.val_accuracy_high ?? r.val_accuracy)),
    pad = Math.max(.08 * (highest - lowest), .4);
  Plotly.react('plot-front', traces, {
    ...look,
    height: 460,
    hovermode: 'closest',
    legend: {orientation: 'h', y: 1.08},
    shapes: limits.map(l => limitLine(l, x)),
    annotations: limits.map(l => limitWords(l, x)),
    xaxis: {title: {text: axis.label + '   \u2190 better'}, rangemode: 'tozero', gridcolor: '#eee'},
    yaxis: {
      title: {text: 'Validation accuracy (%)   better \u2192'},
      gridcolor: '#eee',
      range: [lowest - 2 * pad, Math.min(highest + pad, 100 + pad)]
    }
  }, plain);
  table(front, rows);
  drawParallel(rows);
}

// A thin line through the snapshots of every path, in their order, polished ones are points beside it; the breaks between paths are nulls.
function paths(rows, x) {
  const lines = {};
  for (const r of rows) {
    if (r.level !== null && r.polish === null && r[x] !== null) (lines[r.sweep + '/' + r.trial] ??= []).push(r);
  }
  const joined = Object.values(lines)
    .filter(list => list.length > 1)
    .flatMap(list => [...list.sort((a, b) => a.level - b.level), null]);
  return joined.length ? [{
    type: 'scatter',
    mode: 'lines',
    name: 'path',
    line: {color: '#9aa5b1', width: 1},
    opacity: .6,
    hoverinfo: 'skip',
    x: joined.map(r => r && r[x]),
    y: joined.map(r => r && r.val_accuracy)
  }] : [];
}

// A limit on the cost stands upright, one on the accuracy lies; the words stand at its end.
function limitLine(limit, x) {
  const line = {color: '#CC79A7', width: 1.5, dash: 'dash'};
  return limit.column === x
    ? {type: 'line', line, x0: limit.value, x1: limit.value, yref: 'paper', y0: 0, y1: 1}
    : {type: 'line', line, y0: limit.value, y1: limit.value, xref: 'paper', x0: 0, x1: 1};
}

function limitWords(limit, x) {
  const words = {text: safe(limit.words), showarrow: false, font: {size: 11, color: '#8a3d68'}};
  return limit.column === x
    ? {...words, x: limit.value, yref: 'paper', y: 0, textangle: -90, xanchor: 'right', yanchor: 'bottom'}
    : {...words, y: limit.value, xref: 'paper', x: 1, xanchor: 'right', yanchor: 'bottom'};
}

function table(front, rows) {
  const inFront = new Set(front),
    only = $('f-only').checked;
  const list = D.baselines.concat(only ? front : rows),
    by = D.sort;
  const value = r => by.name in r ? r[by.name] : r.config[by.name];
  list.sort((a, b) => {
    const p = value(a), q = value(b);
    if (p === q) return 0;
    if (p === null || p === undefined) return 1;
    if (q === null || q === undefined) return -1;
    return (p < q ? -1 : 1) * by.sign;
  });
  const cells = [
    [D.word, r => r.link ? `<a href="${safe(r.link)}">${safe(r.model)}</a>` : safe(r.model)],
    ['val_accuracy', r => fix(r.val_accuracy, 2)],
    ...(D.trials.some(known) ? [['val_accuracy_low', r => known(r) ? ends(r) : '-']] : []),
    ['accuracy_drop', r => fix(r.accuracy_drop, 2)],
    ['macs', r => count(r.macs)],
    ['macs_kept', r => fix(100 * r.macs_kept, 1)],
    ['params', r => count(r.params)],
    ['latency_ms', r => fix(r.latency_ms, 3)],
    ...D.varying.map(n => [n, r => safe(show(n, r.config[n]))])
  ];
  const heads = {
    val_accuracy: 'val acc %',
    val_accuracy_low: '95 % interval',
    accuracy_drop: 'drop',
    macs: 'MACs',
    macs_kept: 'kept %',
    latency_ms: 'ms'
  };
  $('rows').innerHTML = '<table><thead><tr>'
    + cells.map(([n]) => `<th data-n="${safe(n)}">${safe(heads[n] || n)}</th>`).join('')
    + '</tr></thead><tbody>'
    + list.map(r =>
      `<tr class="${r.chosen ? 'chosen' : r.kind === 'baseline' ? 'baseline' : inFront.has(r) ? 'front' : ''}" data-k="${safe(r.key)}">`
      + cells.map(([, f]) => `<td>${f(r)}</td>`).join('')
      + '</tr>').join('')
    + '</tbody></table>';
  $('shown').textContent =
    `${rows.length} of ${D.trials.length} ${D.word}s pass the filters, ${front.length} of them on the front.`;
  $('rows').querySelectorAll('th').forEach(th => th.onclick = () => {
    D.sort = {name: th.dataset.n, sign: D.sort.name === th.dataset.n ? -D.sort.sign : 1};
    draw();
  });
  $('rows').querySelectorAll('tbody tr').forEach(tr => tr.onclick = () => detail(tr.dataset.k));
}

function detail(key) {
  const r = D.trials.concat(D.baselines).find(r => r.key === key);
  if (!r) return;
  const pairs = [
    ...D.finals.filter(n => r[n] !== null && r[n] !== undefined).map(n => [n, show(n, r[n])]),
    ...Object.entries(r.config).filter(([n]) => D.varying.includes(n)).map(([n, v]) => [n, show(n, v)])
  ];
  $('detail').innerHTML = `<b>${safe(r.model)}</b> <span class="soft">${safe(r.kind)}, seed ${safe(r.seed)}</span>`
    + (r.link ? ` <a href="${safe(r.link)}">MLflow run</a>` : '')
    + '<table>'
    + pairs.map(([n, v]) => `<tr><td>${safe(n)}</td><td>${safe(v)}</td></tr>`).join('')
    + '</table>';
}

function drawParallel(rows) {
  if (!D.parallel.length || !$('plot-parallel')) return;
  if (!rows.length) {
    Plotly.purge('plot-parallel');
    return;
  }
  const dims = D.parallel.map(p => {
    const raw = rows.map(r => p.name in r ? r[p.name] : r.config[p.name]);
    if (!p.values) return {label: p.label, values: raw.map(v => v === null || v === undefined ? NaN : v)};
    return {
      label: p.label,
      values: raw.map(v => p.values.indexOf(String(v))),
      tickvals: p.values.map((_, i) => i),
      ticktext: p.values
    };
  });
  const accuracy = rows.map(r => r.val_accuracy),
    span = frontOf(rows, D.views.macs).map(r => r.val_accuracy);
  Plotly.react('plot-parallel', [{
    type: 'parcoords',
    dimensions: dims,
    line: {
      color: accuracy,
      colorscale: [[0, '#d5dbe1'], [1, '#0072B2']],
      cmin: Math.min(...span),
      cmax: Math.max(...span),
      showscale: true,
      colorbar: {title: {text: 'val acc %'}, thickness: 12}
    }
  }], {...look, margin: {l: 60, r: 40, t: 50, b: 30}, height: 330}, bare);
}

function drawProgress() {
  if (!$('plot-progress')) return;
  const by = $('p-by').value,
    p = D.progress;
  Plotly.react('plot-progress', [{
    type: 'scatter',
    mode: 'lines',
    line: {shape: 'hv', color: '#0072B2', width: 2},
    x: p[by],
    y: p.hypervolume,
    text: p.model,
    hovertemplate: '%{text}: %{y:.4f}<extra></extra>'
  }], {
    ...look,
    height: 280,
    xaxis: {
      title: {text: by === 'trials' ? `finished ${D.word}s` : 'device hours spent'},
      rangemode: 'tozero',
      gridcolor: '#eee'
    },
    yaxis: {title: {text: 'hypervolume   better \u2192'}, rangemode: 'tozero', gridcolor: '#eee'}
  }, plain);
}

function values() {
  const name = $('f-name').value;
  const found = [...new Set(D.trials.map(r => String(r.config[name])))]
    .sort((a, b) => a - b || (a < b ? -1 : 1));
  $('f-value').innerHTML = '<option value="">any</option>'
    + found.map(v => `<option>${safe(v)}</option>`).join('');
}

for (const id of ['f-macs', 'f-drop']) $(id).oninput = draw;
for (const id of ['f-x', 'f-value', 'f-only', 'f-ties']) $(id).onchange = draw;
$('f-name').onchange = () => { values(); draw(); };
values();
draw();
drawProgress();
if ($('p-by')) $('p-by').onchange = drawProgress;
$('plot-front').on('plotly_click', e => detail(e.points[0].customdata));
const first = D.trials.find(r => r.chosen) || frontOf(D.trials, D.views.macs).sort((a, b) => a.macs - b.macs)[0];
if (first) detail(first.key);
