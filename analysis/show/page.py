"""The HTML page around a report: one file, style, script and plotly inside; nothing is fetched from
anywhere.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

STYLE = """
:root { --ink: #222; --soft: #5b6570; --line: #e3e6ea; --front: #0072B2; --base: #D55E00; --chosen: #009E73; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 28px 24px 60px;
max-width: 1180px; } h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 6px 0; } .soft { color: var(--soft); } a { color: var(--front); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 150px; }
.tile b { display: block; font-size: 21px; font-weight: 600; } .tile span { color: var(--soft); font-size:
13px; } .choice { border-left: 5px solid var(--chosen); background: #f2faf7; padding: 10px 16px;
border-radius: 0 8px 8px 0; } .filters { display: flex; flex-wrap: wrap; gap: 18px; align-items: end;
background: #f7f8f9; border-radius: 8px;
  padding: 12px 16px; margin: 8px 0; }
.filters label { font-size: 13px; color: var(--soft); display: flex; flex-direction: column; gap: 3px; }
.filters input[type=range] { width: 190px; } .filters output { color: var(--ink); font-weight: 600; }
.split { display: grid; grid-template-columns: minmax(0, 3fr) minmax(230px, 1fr); gap: 16px; }
#detail { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; font-size: 14px;
overflow-wrap: anywhere; } #detail table { width: 100%; } #detail td:last-child { text-align: right; }
.scroll { overflow-x: auto; max-height: 480px; overflow-y: auto; border: 1px solid var(--line);
border-radius: 8px; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px;
} .scroll table { width: 100%; } th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid
var(--line);
  white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
th { position: sticky; top: 0; background: #fff; cursor: pointer; font-weight: 600; } tr.front td {
background: #eef6fb; } tr.baseline td { background: #fdf3ec; } tr.chosen td { background: #e7f6f0;
font-weight: 600; } .plot { width: 100%; } .bar { background: var(--line); height: 15px; border-radius: 3px;
min-width: 260px; } .bar i { display: block; height: 100%; background: var(--front); border-radius: 3px; }
code { background: #f3f4f6; padding: 1px 5px; border-radius: 4px; font-size: 13px; }
@media (max-width: 800px) { .split { grid-template-columns: 1fr; } }
"""

# The page's behaviour: filters -> visible trials -> front of what is visible -> plot and table.
SCRIPT = """
const D = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const plain = {displaylogo: false, responsive: true, modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]};
const bare = {...plain, modeBarButtons: [['toImage']]};
const look = {font: {family: 'system-ui, sans-serif', size: 13, color: '#222'}, paper_bgcolor: '#fff',
plot_bgcolor: '#fff',
  margin: {l: 66, r: 16, t: 16, b: 56}, hoverlabel: {align: 'left'}};
const fix = (v, d) => v === null || v === undefined ? '-' : Number(v).toFixed(d);
const count = v => v === null ? '-' : v >= 1e9 ? (v / 1e9).toPrecision(3) + ' G' : v >= 1e6 ? (v /
1e6).toPrecision(3) + ' M'
  : v >= 1e3 ? (v / 1e3).toPrecision(3) + ' k' : String(v);
const show = (name, v) => v === null || v === undefined ? '-' : name === 'macs' || name === 'params' ?
count(v)
  : typeof v === 'number' ? String(+v.toPrecision(4)) : String(v);
const safe = s => String(s).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

function frontOf(rows, x) {           // ties stay: equal cost and accuracy are equally good
  const sorted = rows.filter(r => r[x] !== null).sort((a, b) => a[x] - b[x] || b.val_accuracy -
  a.val_accuracy); let best = -Infinity, at = null; const front = [];
  for (const r of sorted) {
    if (r.val_accuracy > best || (r.val_accuracy === best && r[x] === at)) { front.push(r); at = r[x]; }
    best = Math.max(best, r.val_accuracy);
  }
  return front;
}
function visible() {
  const macs = +$('f-macs').value, drop = +$('f-drop').value, name = $('f-name').value, want =
  $('f-value').value; $('o-macs').value = macs >= 100 ? 'any' : macs + ' %'; $('o-drop').value = drop >=
  D.maxDrop ? 'any' : drop.toFixed(1); return D.trials.filter(r => (macs >= 100 || r.macs_kept === null ||
  100 * r.macs_kept <= macs)
    && (drop >= D.maxDrop || r.accuracy_drop === null || r.accuracy_drop <= drop)
    && (!want || String(r.config[name]) === want));
}
function hover(r) {
  const lines = [`<b>${safe(r.trial)}</b>${r.sweep && D.sweeps > 1 ? ' of ' + safe(r.sweep) : ''}`,
    `${fix(r.val_accuracy, 2)} % validation accuracy (drop ${fix(r.accuracy_drop, 2)})`,
    `${count(r.macs)} MACs (${fix(100 * r.macs_kept, 1)} %), ${count(r.params)} parameters`];
  if (r.latency_ms !== null) lines.push(`${fix(r.latency_ms, 3)} ms`);
  return lines.concat(D.varying.map(n => `${n}: ${safe(show(n, r.config[n]))}`)).join('<br>');
}
function draw() {
  const x = $('f-x').value, axis = D.axes.find(a => a.name === x), rows = visible(), front = frontOf(rows, x);
  const inFront = new Set(front), rest = rows.filter(r => !inFront.has(r) && r[x] !== null);
  const cloud = (list, name, marker) => ({type: 'scatter', mode: 'markers', name, marker, x: list.map(r =>
  r[x]),
    y: list.map(r => r.val_accuracy), text: list.map(hover), hovertemplate: '%{text}<extra></extra>',
    customdata: list.map(r => r.key)});
  const line = {type: 'scatter', mode: 'lines', line: {shape: 'hv', color: '#0072B2', width: 2}, hoverinfo:
  'skip',
    x: front.map(r => r[x]), y: front.map(r => r.val_accuracy), showlegend: false};
  const traces = [cloud(rest, `trials (${rest.length})`, {color: '#9aa5b1', size: 7, opacity: .7}), line,
    cloud(front, `front of what is shown (${front.length})`, {color: '#0072B2', size: 10}),
    cloud(D.baselines.filter(r => r[x] !== null), 'baseline', {color: '#D55E00', size: 17, symbol: 'star'})];
  const chosen = D.trials.filter(r => r.chosen && r[x] !== null);
  if (chosen.length) traces.push(cloud(chosen, 'chosen', {color: 'rgba(0,0,0,0)', size: 20, line: {color:
  '#009E73', width: 3}})); const shown = front.concat(D.baselines), lowest = Math.min(...shown.map(r =>
  r.val_accuracy)); const highest = Math.max(...shown.map(r => r.val_accuracy)), pad = Math.max(.08 *
  (highest - lowest), .4); Plotly.react('plot-front', traces, {...look, height: 460, hovermode: 'closest',
  legend: {orientation: 'h', y: 1.08},
    xaxis: {title: {text: axis.label + '   \\u2190 better'}, rangemode: 'tozero', gridcolor: '#eee'},
    yaxis: {title: {text: 'Validation accuracy (%)   better \\u2192'}, gridcolor: '#eee',
      range: [lowest - 2 * pad, Math.min(highest + pad, 100 + pad)]}}, plain);
  table(front, rows); drawParallel(rows);
}
function table(front, rows) {
  const inFront = new Set(front), only = $('f-only').checked;
  const list = D.baselines.concat(only ? front : rows), by = D.sort;
  const value = r => by.name in r ? r[by.name] : r.config[by.name];
  list.sort((a, b) => { const p = value(a), q = value(b); if (p === q) return 0; if (p === null || p ===
  undefined) return 1;
    if (q === null || q === undefined) return -1; return (p < q ? -1 : 1) * by.sign; });
  const cells = [['trial', r => r.link ? `<a href="${safe(r.link)}">${safe(r.trial)}</a>` : safe(r.trial)],
    ['val_accuracy', r => fix(r.val_accuracy, 2)], ['accuracy_drop', r => fix(r.accuracy_drop, 2)], ['macs',
    r => count(r.macs)], ['macs_kept', r => fix(100 * r.macs_kept, 1)], ['params', r => count(r.params)],
    ['latency_ms', r => fix(r.latency_ms, 3)], ...D.varying.map(n => [n, r => safe(show(n, r.config[n]))])];
  const heads = {val_accuracy: 'val acc %', accuracy_drop: 'drop', macs: 'MACs', macs_kept: 'kept %',
  latency_ms: 'ms'}; $('rows').innerHTML = '<table><thead><tr>' + cells.map(([n]) => `<th
    data-n="${safe(n)}">${safe(heads[n] || n)}</th>`).join('') + '</tr></thead><tbody>' + list.map(r => `<tr
    class="${r.chosen ? 'chosen' : r.kind === 'baseline' ? 'baseline' : inFront.has(r) ? 'front' : ''}"
    data-k="${safe(r.key)}">` + cells.map(([, f]) => `<td>${f(r)}</td>`).join('') + '</tr>').join('') +
    '</tbody></table>';
  $('shown').textContent = `${rows.length} of ${D.trials.length} trials pass the filters, ${front.length} of
  them on the front.`; $('rows').querySelectorAll('th').forEach(th => th.onclick = () => {
    D.sort = {name: th.dataset.n, sign: D.sort.name === th.dataset.n ? -D.sort.sign : 1}; draw(); });
  $('rows').querySelectorAll('tbody tr').forEach(tr => tr.onclick = () => detail(tr.dataset.k));
}
function detail(key) {
  const r = D.trials.concat(D.baselines).find(r => r.key === key); if (!r) return;
  const pairs = [...D.finals.filter(n => r[n] !== null && r[n] !== undefined).map(n => [n, show(n, r[n])]),
    ...Object.entries(r.config).filter(([n]) => D.varying.includes(n)).map(([n, v]) => [n, show(n, v)])];
  $('detail').innerHTML = `<b>${safe(r.trial)}</b> <span class="soft">${safe(r.kind)}, seed
  ${safe(r.seed)}</span>`
    + (r.link ? ` <a href="${safe(r.link)}">MLflow run</a>` : '') + '<table>'
    + pairs.map(([n, v]) => `<tr><td>${safe(n)}</td><td>${safe(v)}</td></tr>`).join('') + '</table>';
}
function drawParallel(rows) {
  if (!D.parallel.length || !$('plot-parallel')) return;
  if (!rows.length) { Plotly.purge('plot-parallel'); return; }
  const dims = D.parallel.map(p => {
    const raw = rows.map(r => p.name in r ? r[p.name] : r.config[p.name]);
    if (!p.values) return {label: p.label, values: raw.map(v => v === null || v === undefined ? NaN : v)};
    return {label: p.label, values: raw.map(v => p.values.indexOf(String(v))),
      tickvals: p.values.map((_, i) => i), ticktext: p.values};
  });
  const accuracy = rows.map(r => r.val_accuracy), span = frontOf(rows, 'macs').map(r => r.val_accuracy);
  Plotly.react('plot-parallel', [{type: 'parcoords', dimensions: dims,
    line: {color: accuracy, colorscale: [[0, '#d5dbe1'], [1, '#0072B2']],
    cmin: Math.min(...span), cmax: Math.max(...span), showscale: true, colorbar: {title: {text: 'val acc %'},
    thickness: 12}}}], {...look, margin: {l: 60, r: 40, t: 50, b: 30}, height: 330}, bare);
}
function drawProgress() {
  if (!$('plot-progress')) return;
  const by = $('p-by').value, p = D.progress;
  Plotly.react('plot-progress', [{type: 'scatter', mode: 'lines', line: {shape: 'hv', color: '#0072B2',
  width: 2}, x: p[by],
    y: p.hypervolume, text: p.trial, hovertemplate: '%{text}: %{y:.4f}<extra></extra>'}], {...look, height:
    280, xaxis: {title: {text: by === 'trials' ? 'finished trials' : 'device hours spent'}, rangemode:
    'tozero', gridcolor: '#eee'}, yaxis: {title: {text: 'hypervolume   better \\u2192'}, rangemode: 'tozero',
    gridcolor: '#eee'}}, plain);
}
function values() {
  const name = $('f-name').value;
  const found = [...new Set(D.trials.map(r => String(r.config[name])))].sort((a, b) => a - b || (a < b ? -1 :
  1)); $('f-value').innerHTML = '<option value="">any</option>' + found.map(v =>
  `<option>${safe(v)}</option>`).join('');
}
for (const id of ['f-macs', 'f-drop']) $(id).oninput = draw;
for (const id of ['f-x', 'f-value', 'f-only']) $(id).onchange = draw;
$('f-name').onchange = () => { values(); draw(); };
values(); draw(); drawProgress();
if ($('p-by')) $('p-by').onchange = drawProgress;
$('plot-front').on('plotly_click', e => detail(e.points[0].customdata));
const first = D.trials.find(r => r.chosen) || frontOf(D.trials, 'macs')[0]; if (first) detail(first.key);
"""


def document(title: str, body: str, data: dict[str, Any]) -> str:
    """The whole page as text; ``data`` is what the script shows."""
    from plotly.offline import get_plotlyjs

    # "</" would end the script element early, whatever trial names or errors contain.
    payload = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>\n{body}\n'
        f'<script type="application/json" id="data">{payload}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def static(title: str, body: str) -> str:
    """A whole page without any script."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n'
    )


def escape(value: object) -> str:
    """Text that is safe inside the page."""
    return html.escape(str(value))


def tiles(pairs: Sequence[tuple[str, str]]) -> str:
    """Large numbers with small words below."""
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in pairs)
    return f'<div class="tiles">{boxes}</div>'


def grid(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A static table."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(rows: Sequence[tuple[str, int, int]]) -> str:
    """Layer name, what is left of it as a bar, and the two numbers (name, left, original)."""
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td><div class="bar"><i style="width:{100 * left / whole:.1f}%"></i></div></td>'
        f"<td>{left} of {whole}</td><td>{100 * left / whole:.0f} %</td></tr>"
        for name, left, whole in rows
    )
    return f"<table>{lines}</table>"


def options(pairs: Sequence[tuple[str, str]]) -> str:
    """``<option>`` elements from (value, text)."""
    return "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in pairs)
