'use strict';

// Asks the server for news; a newer edition is loaded as soon as nobody is in the middle of something.
(() => {
  const EVERY_MS = 5000;
  const STATE = 'live-state';
  const bar = document.getElementById('live');
  const said = document.getElementById('live-said');
  const button = document.getElementById('live-follow');
  let follow = sessionStorage.getItem('live-follow') !== 'off';
  let held = false;

  const controls = () => [...document.querySelectorAll('input, select, textarea, details')];
  const valueOf = (one) => {
    if (one.tagName === 'DETAILS') return one.open;
    return one.type === 'checkbox' || one.type === 'radio' ? one.checked : one.value;
  };

  function keep() {
    const state = {
      of: location.pathname,
      values: controls().map((one, at) => [one.id || at, valueOf(one)]),
      scroll: scrollY,
    };
    sessionStorage.setItem(STATE, JSON.stringify(state));
  }

  // In the order of the page: what one control offers may depend on the one before it.
  function bringBack() {
    const state = JSON.parse(sessionStorage.getItem(STATE) || 'null');
    sessionStorage.removeItem(STATE);
    if (!state || state.of !== location.pathname) return;
    const known = new Map(state.values);
    controls().forEach((one, at) => {
      const value = known.get(one.id || at);
      if (value === undefined || value === valueOf(one)) return;
      if (one.tagName === 'DETAILS') one.open = value;
      else if (typeof value === 'boolean') one.checked = value;
      else one.value = value;
      for (const kind of ['input', 'change']) one.dispatchEvent(new Event(kind, { bubbles: true }));
    });
    requestAnimationFrame(() => scrollTo(0, state.scroll));
  }

  function busy() {
    const at = document.activeElement;
    return held || document.hidden || (at && (at.tagName === 'SELECT' || at.type === 'text'));
  }

  function show(words, trouble) {
    said.textContent = words;
    bar.classList.toggle('trouble', trouble);
  }

  async function ask() {
    try {
      const answer = await fetch('news', { cache: 'no-store' });
      const news = await answer.json();
      if (news.edition !== bar.dataset.edition && follow && !busy()) {
        keep();
        location.reload();
        return;
      }
      const newer = news.edition !== bar.dataset.edition && !follow;
      show(newer ? `${news.said} (there is a newer state)` : news.said, news.trouble);
    } catch {
      show('the server has ended; this is the last state', true);
    }
    setTimeout(ask, EVERY_MS);
  }

  function draw() {
    button.textContent = follow ? 'follow: on' : 'follow: off';
    button.setAttribute('aria-pressed', String(follow));
  }

  button.addEventListener('click', () => {
    follow = !follow;
    sessionStorage.setItem('live-follow', follow ? 'on' : 'off');
    draw();
  });
  addEventListener('pointerdown', () => (held = true));
  addEventListener('pointerup', () => (held = false));
  addEventListener('pointercancel', () => (held = false));
  draw();
  bringBack();
  setTimeout(ask, EVERY_MS);
})();
