// Shows what has changed on a page since it was loaded: an order has settled, a mail was sent.
"use strict";
{
  const EVERY = 2000;
  const look = async () => {
    const shown = document.querySelector("[data-follow]");
    if (!shown || document.hidden) return;
    const answer = await fetch(location.href, {headers: {Accept: "text/html"}});
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-follow]");
    // Not the markup: each form brings new tokens.
    if (!fresh || fresh.textContent === shown.textContent) return;
    const states = [...fresh.querySelectorAll(".gc-state")].map(state => state.textContent);
    shown.replaceWith(fresh);
    document.querySelector("#news").textContent = states[0] ?? "";
  };
  // One at a time: a slow answer must not overtake a newer one.
  const follow = () => look().catch(() => {}).finally(() => setTimeout(follow, EVERY));
  if (document.querySelector("[data-follow]")) setTimeout(follow, EVERY);
}
