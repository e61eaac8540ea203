/* A field that was filled in for the person is selected as a whole when they come to it, so that what
   they type replaces it. The forms work without this script. */
"use strict";

document.addEventListener("focusin", ({ target }) => {
  const isUntouched = () => target.value === target.defaultValue;
  if (!target.matches("[data-selects]") || !isUntouched()) return;
  target.select();
  // Again after the press of the mouse, which places the cursor. Who has gone on since is not called
  // back, and keeps what they have typed.
  setTimeout(() => {
    if (target === document.activeElement && isUntouched()) target.select();
  });
});
