// Which models there are, which of them pass, which of those are the front, and how they are coloured.
const S = {
  brush: {},
  sort: {name: 'macs', sign: 1},
  all: false,
  selected: null,
  compared: []
};
const byKey = new Map(D.trials.concat(D.baselines).map(r => [r.key, r]));
// A parameter's last name, where no other one has it.
const shortOf = name => D.varying.filter(n => n.split('.').pop() === name.split('.').pop()).length > 1 ? name : name.split('.').pop();
const valueOf = (r, name) => name in r ? r[name] : r.config[name];

// The rows that no other is as good as in every goal {name, better} and better in one; ties stay. The best in the first
// goal comes first.
function frontOf(rows, goals) {
  const known = rows.filter(r => goals.every(g => !missing(r[g.name])));
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
  const measured = ['latency_ms', 'latency_share'].filter(name => goals.some(g => g.name === name));
  const latency = Object.fromEntries(measured.map(name => [name, settled(rows, name)]));
  const value = (r, name) => name in latency ? latency[name].get(r) : r[name];
  return rows.map(r => [r, goals.map(g => g.better === 'max' ? -value(r, g.name) : value(r, g.name))]);
}

// Latencies that cannot be told apart are equal (analysis.front.objectives.settled_latency).
function settled(rows, name) {
  const widened = (r, sign) => name === 'latency_share' ? r[name] * (1 + sign * (r.latency_noise ?? 0))
    : sign < 0 ? Math.min(r[name], r.latency_low_ms ?? r[name]) : Math.max(r[name], r.latency_high_ms ?? r[name]);
  const found = new Map();
  let left = [...rows].sort((a, b) => a[name] - b[name]);
  while (left.length) {
    const fastest = left[0];
    for (const r of left) {
      if (widened(r, -1) <= widened(fastest, 1)) found.set(r, fastest[name]);
    }
    left = left.filter(r => !found.has(r));
  }
  return found;
}

// Every finished model passes or does not; nothing else hides one.
function visible() {
  const macs = +$('f-macs').value,
    drop = +$('f-drop').value,
    name = $('f-name').value,
    want = $('f-value').value,
    brushes = Object.values(S.brush);
  $('o-macs').value = macs >= 100 ? 'any' : macs + ' %';
  $('o-drop').value = drop >= D.maxDrop ? 'any' : drop.toFixed(1);
  return D.trials.filter(r =>
    (macs >= 100 || missing(r.macs_kept) || 100 * r.macs_kept <= macs + 1e-9)
    && (drop >= D.maxDrop || missing(r.accuracy_drop) || r.accuracy_drop <= drop)
    && (!want || String(r.config[name]) === want)
    && brushes.every(b => b.keeps(r)));
}

// What filters the models, in words.
function filtersInWords() {
  const said = Object.values(S.brush).map(b => b.words);
  if (+$('f-macs').value < 100) said.push('MACs at most ' + $('f-macs').value + ' %');
  if (+$('f-drop').value < D.maxDrop) said.push('at most ' + $('o-drop').value + ' points lost');
  if ($('f-value').value) said.push($('f-name').value + ' = ' + $('f-value').value);
  return said;
}

function clearFilters() {
  S.brush = {};
  $('f-macs').value = 100;
  $('f-drop').value = D.maxDrop;
  $('f-value').value = '';
}

// A class per model for the chosen colouring, and what the classes mean: {of(row), items: [[class, words]]}.
function colouring(name) {
  if (!name) return {of: () => '', items: []};
  const values = D.trials.map(r => valueOf(r, name)),
    known = values.filter(v => !missing(v)),
    different = [...new Set(known)],
    none = known.length < values.length ? [['cx', 'none']] : [];
  if (different.length && different.every(v => typeof v === 'number') && different.length > 6) {
    const low = Math.min(...different),
      step = (Math.max(...different) - low) / 6,
      bin = v => Math.min(5, Math.floor((v - low) / step)),
      words = i => show(name, low + i * step) + ' to ' + show(name, low + (i + 1) * step);
    return {
      of: r => missing(valueOf(r, name)) ? 'cx' : 'q' + bin(valueOf(r, name)),
      items: [0, 1, 2, 3, 4, 5].map(i => ['q' + i, words(i)]).concat(none)
    };
  }
  const numbers = different.every(v => typeof v === 'number'),
    often = v => known.filter(other => other === v).length;
  const sorted = numbers ? different.sort((a, b) => a - b)
    : different.sort((a, b) => often(b) - often(a) || (String(a) < String(b) ? -1 : 1));
  const shown = sorted.slice(0, 7),
    rest = sorted.length - shown.length,
    place = new Map(shown.map((v, i) => [v, (numbers && sorted.length > 2 ? 'q' + Math.round(i * 5 / (shown.length - 1)) : 'c' + i)]));
  return {
    of: r => place.get(valueOf(r, name)) ?? 'cx',
    items: shown.map(v => [place.get(v), show(name, v)])
      .concat(rest > 0 ? [['cx', many(rest, 'other value')]] : [], rest > 0 ? [] : none)
  };
}

const known = r => !missing(r.val_accuracy_low);
const ends = r => fix(r.val_accuracy_low, 1) + '-' + fix(r.val_accuracy_high, 1);
const nameOf = r => r.model + (r.sweep && D.sweeps > 1 ? ' of ' + r.sweep : '');

function wordsOf(r) {
  const range = known(r) ? ', 95 % interval ' + ends(r) : '',
    lost = missing(r.accuracy_drop) ? '' : ', ' + fix(Math.abs(r.accuracy_drop), 2) + ' points ' + (r.accuracy_drop >= 0 ? 'below' : 'above') + ' its baseline',
    share = missing(r.macs_kept) ? '' : ' (' + fix(100 * r.macs_kept, 1) + ' %)',
    speed = missing(r.latency_ms) ? [] : [fix(r.latency_ms, 3) + ' ms'];
  return [
    nameOf(r) + (r.kind === 'baseline' ? ', baseline' : ''),
    fix(r.val_accuracy, 2) + ' % validation accuracy' + range + lost,
    count(r.macs) + ' MACs' + share + ', ' + count(r.params) + ' parameters',
    ...speed,
    ...D.varying.filter(n => !missing(r.config[n])).map(n => shortOf(n) + ': ' + show(n, r.config[n]))
  ];
}
