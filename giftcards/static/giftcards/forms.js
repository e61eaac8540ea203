/* A field that was filled in for the person is selected as a whole when they come to it, so that what
   they type replaces it. The forms work without this script. */
"use strict";

document.addEventListener("focusin", ({ target }) => {
  if (!target.matches("[data-selects]") || target.value !== target.defaultValue) return;
  // After the press of the mouse, which places the cursor. Who has gone on since is not called back.
  setTimeout(() => {
    if (target === document.activeElement) target.select();
  });
});
