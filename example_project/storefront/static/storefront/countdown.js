// Counts down the time for which cards are reserved, and shows the page anew when it is over.
"use strict";
{
  const shown = document.querySelector("[data-left]");
  // By seconds, because the clocks of customer and shop may differ.
  const end = Date.now() + 1000 * shown.dataset.left;
  const tick = () => {
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    const seconds = String(left % 60).padStart(2, "0");
    shown.querySelector("b").textContent = `${Math.floor(left / 60)}:${seconds}`;
    if (left > 0) setTimeout(tick, 250);
    // Not reload(), which would send the form again if the page has answered it.
    else location.replace(location.pathname);
  };
  shown.hidden = false;
  tick();
}
