/* The page of a revealed code: copies it, and hides it after a minute or when the page is left.
   Without this script, the answer's header "Refresh" leads away from the page. */
"use strict";

(() => {
  const card = document.querySelector(".giftcards-revealed");
  const status = card.querySelector("[role=status]");
  const ends = Date.now() + card.dataset.seconds * 1000;

  function wipe() {
    for (const secret of card.querySelectorAll(".giftcards-secret")) secret.textContent = "";
    card.hidden = true;
  }

  function leave() {
    wipe();
    // Instead of this page, so that "Back" does not lead to it.
    location.replace(card.dataset.next);
  }

  function leaveInTime() {
    if (Date.now() >= ends) leave();
  }

  function select(secret) {
    getSelection().selectAllChildren(secret);
    status.textContent = card.dataset.selected;
  }

  async function copy(secret) {
    try {
      await navigator.clipboard.writeText(secret.textContent);
      status.textContent = card.dataset.copied;
    } catch {
      // Refused, or the site is not served over HTTPS.
      select(secret);
    }
  }

  for (const button of card.querySelectorAll("[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(document.getElementById(button.dataset.copies)));
  }

  setTimeout(leave, ends - Date.now());
  // A timer stands still while the computer sleeps.
  document.addEventListener("visibilitychange", leaveInTime);
  addEventListener("focus", leaveInTime);
  // The browser may keep the page to show it again.
  addEventListener("pagehide", wipe);
  addEventListener("pageshow", (event) => {
    if (event.persisted) leave();
  });
})();
