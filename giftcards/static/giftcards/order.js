/* Shows an open order again once it has changed. The page works without it. */
(() => {
  "use strict";

  const SECONDS = 5;
  const follow = document.getElementById("giftcards-follow");
  if (!follow) return;
  const notice = follow.querySelector(".giftcards-changed");
  let typed = false;
  let timer = 0;
  let failures = 0;
  let isLeaving = false;

  document.addEventListener("input", () => { typed = true; });
  document.addEventListener("submit", () => {
    isLeaving = true;
    stop();
  });
  document.addEventListener("visibilitychange", () => {
    stop();
    if (!document.hidden) ask();
  });

  function stop() {
    clearTimeout(timer);
    timer = 0;
  }

  function later() {
    stop();
    // After failures more and more rarely, at most every five minutes.
    if (!document.hidden) timer = setTimeout(ask, Math.min(SECONDS * 2 ** failures, 300) * 1000);
  }

  function isBusy() {
    return typed || document.querySelector("dialog[open]") !== null;
  }

  async function ask() {
    let answer;
    try {
      const response = await fetch(follow.dataset.address, { credentials: "same-origin", redirect: "error" });
      // Logged out, or not allowed any more: asking again would not help.
      if (response.status === 403 || response.status === 404) return;
      if (!response.ok) throw new Error("not now");
      answer = await response.json();
      failures = 0;
    } catch {
      failures += 1;
      later();
      return;
    }
    if (isLeaving) return;
    if (answer.fingerprint === follow.dataset.seen) later();
    else if (isBusy()) notice.hidden = false;
    else location.reload();
  }

  later();
})();
