/* The page with a customer's cards: copying, printing, ticks. It works without this script. */
"use strict";

(() => {
  const page = document.getElementById("gc-revealed");
  if (!page) return;
  const status = page.querySelector("[role=status]");

  function select(secret) {
    getSelection().selectAllChildren(secret);
    status.textContent = page.dataset.selected;
  }

  async function copy(secret) {
    status.textContent = "";
    try {
      await navigator.clipboard.writeText(secret.textContent);
      status.textContent = page.dataset.copied;
    } catch {
      // Refused, or a browser inside another program that has no clipboard.
      select(secret);
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
