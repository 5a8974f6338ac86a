// The pages work without this file. With it, the part marked data-live is loaded again whenever the server says that something
// has changed; forms are never part of it, so nothing that somebody is typing is touched.
"use strict";

const live = document.querySelector("[data-live]");

async function refresh() {
  const answer = await fetch(live.dataset.live);
  if (answer.redirected || !answer.ok) {
    window.location.reload(); // the login has ended
    return;
  }
  const fresh = await answer.text();
  if (fresh === refresh.shown) return;
  refresh.shown = fresh;
  const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  live.replaceChildren(...new DOMParser().parseFromString(fresh, "text/html").body.childNodes);
  const again = [...live.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused);
  if (focused && again) again.focus();
}

if (live) {
  let busy = false;
  const onEvent = async () => {
    if (busy) return;
    busy = true;
    try {
      await refresh();
    } catch {
      // The network is away: the next event tries again.
    } finally {
      busy = false;
    }
  };
  const source = new EventSource("/events?shown=" + live.dataset.shown);
  source.addEventListener("changed", onEvent);
  source.addEventListener("tick", onEvent);
}
