/* The page with a customer's cards: copying, printing, ticks. It works without this script. */
"use strict";

(() => {
  const page = document.getElementById("gc-revealed");
  if (!page) return;
  const status = page.querySelector("[role=status]");

  let timer = 0;

  function say(text) {
    status.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => { status.textContent = ""; }, 4000);
  }

  async function copy(secret) {
    try {
      await navigator.clipboard.writeText(secret.textContent);
      say(page.dataset.copied);
    } catch {
      // Refused, or a browser inside another program that has no clipboard.
      getSelection().selectAllChildren(secret);
      say(page.dataset.selected);
    }
  }

  for (const button of page.querySelectorAll("[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(document.getElementById(button.dataset.copies)));
  }
  for (const button of page.querySelectorAll("[data-prints]")) {
    button.hidden = false;
    button.addEventListener("click", () => print());
  }

  // Ticks stay in this browser. The keys name the order and the number of the card.
  for (const box of page.querySelectorAll("[data-card]")) {
    box.parentElement.hidden = false;
    const key = `giftcards-used ${page.dataset.order} ${box.dataset.card}`;
    try {
      box.checked = localStorage.getItem(key) !== null;
    } catch {
      continue; // the browser keeps nothing
    }
    box.addEventListener("change", () => {
      try {
        if (box.checked) localStorage.setItem(key, "1");
        else localStorage.removeItem(key);
      } catch { /* it is full: the tick lasts as long as the page */ }
    });
  }

  // The browser may keep the page to show it again: it asks again instead.
  addEventListener("pagehide", () => page.replaceChildren());
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.replace(location.href);
  });
})();
