// What a change leads to: filters -> models that pass -> their front -> picture, lines and table, all of the same models.
let shownRows = [],
  shownFront = [],
  waiting = false;

function redraw() {
  waiting = false;
  const x = $('f-x').value,
    colours = colouring($('f-colour').value),
    front = shownFront = frontOf(shownRows = visible(), D.views[x] || []);
  drawFront(shownRows, front, colours);
  drawParallel(shownRows, front, colours);
  drawTable(front, shownRows);
  const said = filtersInWords();
  $('shown').textContent = shownRows.length + ' of ' + many(D.trials.length, D.word) + ' pass'
    + (said.length ? ' (' + said.join('; ') + ')' : '') + ', ' + front.length + ' of them on the front.';
  $('f-clear').disabled = !said.length;
  legend(colours, front.length);
}

// Changes that come faster than the screen shows them are drawn once.
function update() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(redraw);
}

function legend(colours, front) {
  const item = (name, words) => el('span', {class: 'key ' + name}, el('i', {}), words);
  $('legend').replaceChildren(
    ...colours.items.map(([name, words]) => item(name, words)),
    ...(colours.items.length ? [item('big', 'larger: front (' + front + ')')] : [item('best', 'front (' + front + ')'), item('plain', 'other ' + D.word + 's')]),
    ...(shownRows.length < D.trials.length ? [item('off', 'filtered out (' + (D.trials.length - shownRows.length) + ')')] : []),
    ...(D.baselines.length ? [item('star', 'baseline')] : []),
    ...(D.trials.some(r => r.chosen) ? [item('hollow', D.asked ? 'chosen' : 'default choice')] : []),
    ...(compared() ? [item('dashed', 'compared with it')] : []));
}

function select(key) {
  const r = byKey.get(key);
  if (!r) return;
  S.selected = key;
  detail(r);
  markSelected();
  markLine();
  markRow(true);
  const course = D.courses.find(c => c.trial === r.trial && c.sweep === r.sweep);
  if (course && $('f-course').value !== idOf(course)) {
    $('f-course').value = idOf(course);
    drawCourses(colouring($('f-colour').value));
  }
}

function values() {
  const name = $('f-name').value,
    found = [...new Set(D.trials.map(r => String(r.config[name])))].sort((a, b) => a - b || (a < b ? -1 : 1));
  $('f-value').replaceChildren(el('option', {value: ''}, 'any'), ...found.map(v => el('option', {value: v}, v === 'undefined' ? 'none' : v)));
}

function colourNames() {
  const own = [['', 'front'], ['val_accuracy', 'accuracy'], ['macs', 'MACs'], ['trial', 'trial']];
  $('f-colour').replaceChildren(...own.concat(D.varying.map(n => [n, n])).map(([value, words]) => el('option', {value}, words)));
}

function drawAll() {
  redraw();
  drawCourses(colouring($('f-colour').value));
  drawWidths();
  drawProgress();
}

async function copy(button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = 'copied';
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = 'selected';
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}

for (const id of ['f-macs', 'f-drop']) $(id).oninput = update;
$('f-x').onchange = () => { $('f-log').checked = wantsLog(); update(); };
for (const id of ['f-value', 'f-only', 'f-ties', 'f-whole', 'f-log']) $(id).onchange = update;
$('f-name').onchange = () => { values(); update(); };
$('f-colour').onchange = () => { update(); requestAnimationFrame(() => drawCourses(colouring($('f-colour').value))); };
$('f-clear').onclick = () => { clearFilters(); update(); };
for (const id of ['f-course', 'f-early']) $(id).onchange = () => drawCourses(colouring($('f-colour').value));
$('p-by').onchange = drawProgress;
for (const button of document.querySelectorAll('.copy')) button.onclick = () => copy(button);
values();
colourNames();
courseNames();
firstCompared(frontOf(D.trials, D.views.macs || []));
$('f-log').checked = wantsLog();
wireFront();
wireParallel();
wireTable();
wireCourses();
drawAll();
const first = D.trials.find(r => r.chosen) || D.baselines[0];
if (first) select(first.key);
let width = document.documentElement.clientWidth;
new ResizeObserver(() => {
  if (width === document.documentElement.clientWidth) return;
  width = document.documentElement.clientWidth;
  drawAll();
}).observe(document.documentElement);
addEventListener('beforeprint', drawAll);
