// What is live on the office's pages; each page also works without it. No libraries, nothing from elsewhere.
"use strict";
(() => {
  const language = document.documentElement.lang;
  const moment = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "medium" });

  // Times are written in UTC by the server; people read them in their own zone.
  function localise(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (!Number.isNaN(at.getTime())) {
        element.title = element.textContent;
        element.textContent = moment.format(at);
      }
    }
  }

  function say(state) {
    const line = document.querySelector("[data-live-status]");
    if (!line) return;
    line.classList.toggle("live-on", state === "live");
    line.classList.toggle("live-away", state === "away" || state === "off");
    const words = line.querySelector(".words");
    if (words.textContent !== line.dataset[state]) words.textContent = line.dataset[state];
  }

  // One <tbody> per payment: replaced where it stands, or put on top when it is new.
  function place(table, change) {
    const holder = document.createElement("table");
    holder.innerHTML = change.html; // rendered and escaped by our own server
    const fresh = holder.querySelector("tbody");
    localise(fresh);
    const old = document.getElementById(change.id);
    if (old && Number(old.dataset.version) >= Number(fresh.dataset.version)) return;
    fresh.classList.add("fresh");
    if (old) old.replaceWith(fresh);
    else table.tHead.after(fresh);
    document.getElementById("none")?.setAttribute("hidden", "");
  }

  function follow(table) {
    let source = null;
    const open = () => {
      source = new EventSource(table.dataset.live);
      source.addEventListener("state", (event) => say(event.data));
      source.addEventListener("transaction", (event) => place(table, JSON.parse(event.data)));
      source.onerror = () => {
        say("off");
        if (source.readyState === EventSource.CLOSED) setTimeout(open, 3000); // refused, not merely interrupted
      };
    };
    open();
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  }

  // Parts that change slowly are fetched again and put in place, unless somebody is working in them.
  async function refresh(part) {
    if (document.hidden || part.contains(document.activeElement) || part.querySelector("details[open]")) return;
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const next = page.getElementById(part.id);
    if (!next) return;
    localise(next);
    if (next.innerHTML !== part.innerHTML) part.innerHTML = next.innerHTML;
  }

  localise(document);
  for (const table of document.querySelectorAll("table[data-live]")) follow(table);
  for (const part of document.querySelectorAll("[data-refresh]")) {
    setInterval(() => refresh(part).catch(() => {}), 1000 * Number(part.dataset.refresh));
  }
})();
