// Light or dark: what the system prefers, until the reader chooses. Runs before the page is painted.
"use strict";
const feclip = {};

feclip.theme = (() => {
  const KEY = "feclip-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    chosen = null; // a page opened from a file may have no storage
  }

  const name = () => (["light", "dark"].includes(chosen) ? chosen : system.matches ? "dark" : "light");

  function apply() {
    document.documentElement.dataset.theme = name();
    document.dispatchEvent(new CustomEvent("feclip-theme"));
  }

  function toggle() {
    chosen = name() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // the choice then lasts as long as the page
    }
    apply();
  }

  system.addEventListener("change", apply);
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", toggle);
  });
  return { name, toggle };
})();
