// The table of what is shown, and everything about the selected model.
const FEW = 100;
const HEADS = {
  val_accuracy: 'val acc %',
  val_accuracy_low: '95 % interval',
  accuracy_drop: 'drop',
  macs: 'MACs',
  macs_kept: 'MACs kept %',
  params: 'params',
  latency_ms: 'ms'
};

// [name, text of a row, whether it is a number] of every column.
function columns() {
  const measured = name => D.trials.concat(D.baselines).some(r => !missing(r[name]));
  return [
    ['model', r => nameOf(r), false],
    ['val_accuracy', r => fix(r.val_accuracy, 2), true],
    ...(measured('val_accuracy_low') ? [['val_accuracy_low', r => known(r) ? ends(r) : '-', true]] : []),
    ['accuracy_drop', r => fix(r.accuracy_drop, 2), true],
    ['macs', r => count(r.macs), true],
    ['macs_kept', r => missing(r.macs_kept) ? '-' : fix(100 * r.macs_kept, 1), true],
    ['params', r => count(r.params), true],
    ...(measured('latency_ms') ? [['latency_ms', r => fix(r.latency_ms, 3), true]] : []),
    ...D.varying.map(n => [n, r => show(n, r.config[n]), D.trials.every(r => missing(r.config[n]) || typeof r.config[n] === 'number')])
  ];
}

function drawTable(front, rows) {
  const inFront = new Set(front),
    list = D.baselines.concat($('f-only').checked ? front : rows),
    by = S.sort,
    cells = columns();
  list.sort((a, b) => {
    const p = valueOf(a, by.name), q = valueOf(b, by.name);
    if (p === q) return 0;
    if (missing(p)) return 1;
    if (missing(q)) return -1;
    return (p < q ? -1 : 1) * by.sign;
  });
  const first = S.all ? list : list.slice(0, FEW),
    more = list.length - first.length;
  const head = cells.map(([name, , number]) => el('th', {
    class: number ? 'n' : '', 'aria-sort': by.name === name ? (by.sign > 0 ? 'ascending' : 'descending') : null
  }, el('button', {type: 'button', 'data-n': name, onclick: () => sortBy(name)}, HEADS[name] || shortOf(name))));
  const body = first.map(r => el('tr', {
    class: [r.chosen ? 'chosen' : r.kind === 'baseline' ? 'baseline' : inFront.has(r) ? 'front' : '', r.key === S.selected ? 'selected' : ''].join(' ').trim(),
    'data-k': r.key, tabindex: 0
  }, ...cells.map(([name, words, number], i) => el(i ? 'td' : 'th', {class: number ? 'n' : '', scope: i ? null : 'row'}, words(r)))));
  $('rows').replaceChildren(el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...body)));
  $('more').replaceChildren(...(more > 0
    ? [many(more, 'more row') + ' not in the table yet. ', el('button', {type: 'button', onclick: () => { S.all = true; update(); }}, 'show all')] : []));
}

function sortBy(name) {
  S.sort = {name, sign: S.sort.name === name ? -S.sort.sign : 1};
  drawTable(shownFront, shownRows);
  const button = [...$('rows').querySelectorAll('th button')].find(b => b.dataset.n === name);
  if (button) button.focus();
}

function markRow(look) {
  for (const row of $('rows').querySelectorAll('tbody tr')) {
    row.classList.toggle('selected', row.dataset.k === S.selected);
    if (look && row.dataset.k === S.selected) scrollWithin($('rows'), row);
  }
}

// Only the table moves, never the page.
function scrollWithin(box, row) {
  const top = row.offsetTop - 40,
    end = row.offsetTop + row.offsetHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (end > box.scrollTop + box.clientHeight) box.scrollTop = end - box.clientHeight;
}

function wireTable() {
  const rows = $('rows');
  rows.onclick = event => {
    const row = event.target.closest('tbody tr');
    if (row) select(row.dataset.k);
  };
  rows.onkeydown = event => {
    const row = event.target.closest('tbody tr');
    if (!row) return;
    const next = {ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling}[event.key];
    if (next) {
      event.preventDefault();
      next.focus();
    }
    if (next || event.key === 'Enter') select((next || row).dataset.k);
  };
}

function detail(r) {
  const canCompare = r.kind !== 'baseline' && r.key in D.widths.of;
  const pairs = [
    ...D.finals.filter(q => !missing(r[q.name])).map(q => [q.name.replaceAll('_', ' '), quantity(q, r[q.name]), q.words]),
    ...D.varying.filter(n => !missing(r.config[n])).map(n => [shortOf(n), show(n, r.config[n]), n])
  ];
  $('detail').replaceChildren(
    el('b', {}, nameOf(r)),
    el('p', {class: 'soft'}, r.kind + ', seed ' + show('seed', r.seed), ...(r.link ? [', ', el('a', {href: r.link}, 'MLflow run')] : [])),
    ...(canCompare ? [el('button', {type: 'button', onclick: () => toggleCompared(r.key)}, S.compared.includes(r.key) ? 'take out of the layers below' : 'add to the layers below')] : []),
    el('table', {}, ...pairs.map(([n, v, words]) => el('tr', {title: words}, el('th', {}, n), el('td', {class: 'n'}, v))))
  );
}
